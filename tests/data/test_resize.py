"""Resizing: the bits of one version of OpenCV, and cases computed by hand.

``opencv_resize.npz`` contains OpenCV 5.0.0's results for the images that ``RandomState(number)`` draws.
"""

import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.data.resize import fit_size, resize_bilinear, resize_nearest
from flash_internimage.errors import UserError

SIZES = [
    (48, 64, 80, 107),
    (43, 64, 81, 60),
    (37, 23, 20, 41),
    (40, 40, 20, 20),
    (1, 7, 3, 5),
    (90, 50, 33, 77),
]


@pytest.fixture(scope="module")
def opencv() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "opencv_resize.npz") as file:
        return dict(file)


@pytest.mark.parametrize("number", range(len(SIZES)), ids=["{}x{} to {}x{}".format(*size) for size in SIZES])
@pytest.mark.parametrize(("kind", "function"), [("bilinear", resize_bilinear), ("nearest", resize_nearest)])
def test_equals_opencv(opencv, number, kind, function):
    height, width, new_height, new_width = SIZES[number]
    image = np.random.RandomState(number).randint(0, 256, (height, width, 3)).astype(np.uint8)
    expected = opencv[f"{kind}/{height}x{width}-{new_height}x{new_width}"]
    np.testing.assert_array_equal(function(image, new_height, new_width), expected)


def test_bilinear_by_hand():
    # Centers of the new pixels lie at -0.25, 0.25, 0.75, 1.25 in the old image; outside, the border is replicated.
    image = np.array([[[0], [100]]], dtype=np.uint8)
    assert resize_bilinear(image, 1, 4)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_bilinear_downsampling_is_not_antialiased():
    # Ten pixels become one: without antialiasing it is the mean of the two pixels around its center at 4.5.
    image = np.zeros((1, 10, 1), dtype=np.uint8)
    image[0, [0, 9]] = 255
    assert resize_bilinear(image, 1, 1).item() == 0


def test_bilinear_of_a_flipped_view_equals_that_of_its_copy():
    image = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
    for view in (image[:, ::-1], image[::-1, ::2], image.transpose(1, 0, 2)):
        np.testing.assert_array_equal(resize_bilinear(view, 25, 35), resize_bilinear(view.copy(), 25, 35))


def test_a_forked_process_resizes_after_its_parent_has():
    image = np.zeros((500, 500, 3), dtype=np.uint8)  # large enough for OpenCV to use its threads, if it has any
    resize_bilinear(image, 600, 600)
    process = multiprocessing.get_context("fork").Process(target=resize_bilinear, args=(image, 600, 600))
    process.start()
    process.join(30)
    process.kill()
    process.join()
    assert process.exitcode == 0
    assert cv2.getNumThreads() == 1


def test_bilinear_rejects_other_dtypes():
    with pytest.raises(UserError, match="uint8, got float32"):
        resize_bilinear(np.zeros((2, 2, 3), dtype=np.float32), 4, 4)


def test_nearest_by_hand():
    mask = np.array([[1, 2, 3]], dtype=np.uint8)
    assert resize_nearest(mask, 1, 5)[0].tolist() == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 1066.67 rounds up
        ((427, 640), (800, 1199)),  # 1199.06 rounds down
        ((333, 1000), (444, 1333)),  # limited by the long side
        ((1000, 333), (1333, 444)),
        ((800, 800), (800, 800)),
    ],
)
def test_fit_size_of_the_published_recipe(size, expected):
    assert fit_size(*size, short_side=800, long_side=1333) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.integers(1, 2000))
def test_fit_size_is_the_largest_size_within_the_limits(height, width, short, long):
    new = fit_size(height, width, short, long)
    assert min(new) >= 1
    assert min(new) <= short + 0.5 or min(new) == 1
    assert max(new) <= max(long, short) + 0.5
    ideal = min(long / max(height, width), short / min(height, width))
    assert abs(max(new) - max(1, ideal * max(height, width))) <= 0.5
