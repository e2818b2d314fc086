"""Run-length encoded masks: valid ones are those that pycocotools decodes to as many pixels, and decoding gives its pixels."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_internimage.data.run_lengths import RunsOfOnes, problem_of_counts, problems_of_strings, require_valid_masks
from flash_internimage.errors import UserError


def random_mask(random: np.random.RandomState) -> np.ndarray:
    height, width = random.randint(1, 60, 2)
    return np.asfortranarray((random.rand(height, width) < random.rand()).astype(np.uint8))


def test_masks_of_pycocotools_are_valid():
    random = np.random.RandomState(0)
    masks = [random_mask(random) for _ in range(300)] + [np.zeros((0, 5), dtype=np.uint8, order="F")]
    counts = [mask_util.encode(mask)["counts"] for mask in masks]
    pixels = [mask.size for mask in masks]
    assert list(problems_of_strings(counts, pixels)) == []
    assert list(problems_of_strings([c.decode() for c in counts], pixels)) == []
    assert [i for i, _ in problems_of_strings(counts, [n + 1 for n in pixels])] == list(range(len(masks)))


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 3000), min_size=1, max_size=12))
def test_compressed_and_uncompressed_runs_have_the_same_sum(counts):
    string = mask_util.frPyObjects({"size": [sum(counts), 1], "counts": counts}, sum(counts), 1)["counts"]
    assert problem_of_counts(counts, sum(counts)) is None
    assert list(problems_of_strings([string], [sum(counts)])) == []
    ((_, problem),) = problems_of_strings([string], [sum(counts) + 5])
    assert f"should sum to {sum(counts) + 5} (height x width), but sum to {sum(counts)}" in problem


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(max_size=20), st.binary(max_size=20), st.text(alphabet="0123OPQ_`no", max_size=20)))
def test_what_passes_decodes_to_as_many_pixels(text):
    for pixels in (0, 1, 5, 48):
        if not list(problems_of_strings([text], [pixels])):
            mask = mask_util.decode({"size": [pixels, 1], "counts": text})
            again = mask_util.decode(mask_util.encode(np.asfortranarray(mask)))
            np.testing.assert_array_equal(mask, again)
            assert mask.size == pixels


INVALID = ["o", "O", "é", "hello world", "\n", "0\x000", "o" * 9 + "0", "\ud800"]


@pytest.mark.parametrize("text", INVALID, ids=map(ascii, INVALID))
def test_invalid_strings_beside_valid_ones(text):
    valid = mask_util.encode(np.ones((4, 3), dtype=np.uint8, order="F"))["counts"].decode()
    assert [i for i, _ in problems_of_strings([valid, text, valid], [12, 12, 12])] == [1]


def encoded(number: int) -> str:
    """One number in COCO's compressed form, as `rleToString` of pycocotools writes it."""
    text = ""
    while True:
        digit, number = number & 0x1F, number >> 5
        is_last = number == (-1 if digit & 0x10 else 0)
        text += chr(48 + digit + (0 if is_last else 0x20))
        if is_last:
            return text


def test_runs_whose_sum_wraps_around_64_bits_are_refused():
    pixels = 4800
    total, steps = 2**64 + pixels, 50_000
    step = 2 * total // (steps * (steps + 1))
    rest = total - step * steps * (steps + 1) // 2
    # Runs of ones of step, 2 * step, ... steps * step pixels, each stored as the difference to the one before.
    text = encoded(0) + (encoded(step) + encoded(0)) * (steps - 1) + encoded(step) + encoded(rest)
    ((_, problem),) = problems_of_strings([text], [pixels])
    assert f"should be 4800 (height x width) or less, but include {step * steps}" in problem


@pytest.mark.parametrize(
    ("counts", "problem"),
    [([1, 2.0], "2.0"), ([1, True], "True"), ([None], "None"), (["3"], "'3'"), ([5, -2], "-2"), ([1, 1], "sum to 2")],
)
def test_invalid_counts(counts, problem):
    assert problem in problem_of_counts(counts, 3)


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seeds=st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1)), max_size=5),
    batch=st.integers(1, 40),
    pixels=st.integers(1, 100),
)
def test_bitmaps_equal_those_of_pycocotools(height, width, seeds, batch, pixels):
    masks = [(np.random.RandomState(seed).rand(height, width) < density).astype(np.uint8) for seed, density in seeds]
    rles = [mask_util.encode(np.asfortranarray(mask)) for mask in masks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flash_internimage.data.run_lengths._BATCH", batch)
        patch.setattr("flash_internimage.data.run_lengths._MAX_PIXELS", pixels)
        runs = RunsOfOnes.of([rle["counts"] for rle in rles])
        windows = runs.windows(height)
        bitmaps = list(runs.bitmaps(windows, height))
    boxes = np.array([mask_util.toBbox(rle) for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_array_equal(windows, boxes)
    assert len(bitmaps) == len(masks)
    for mask, bitmap, (x0, y0, x1, y1) in zip(masks, bitmaps, windows, strict=True):
        np.testing.assert_array_equal(bitmap, mask[y0:y1, x0:x1].T)


def test_empty_runs_leave_the_mask_as_it_is():
    usual = mask_util.encode(np.asfortranarray(np.array([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=np.uint8)))["counts"]
    unusual = mask_util.frPyObjects({"size": [2, 4], "counts": [0, 0, 2, 1, 0, 1, 0, 0, 0, 1, 3, 0]}, 2, 4)["counts"]
    runs = RunsOfOnes.of([usual, unusual, usual])
    windows = runs.windows(2)
    assert windows.tolist() == [[1, 0, 3, 2]] * 3
    for bitmap in runs.bitmaps(windows, 2):
        assert bitmap.tolist() == [[1, 1], [1, 0]]


WHOLE = {"size": [4, 5], "counts": [3, 17]}
BAD_MASKS = {
    "too few runs": ({"size": [4, 5], "counts": [3, 16]}, "should sum to 20 .*, but sum to 19"),
    "too few runs, compressed": ({"size": [4, 5], "counts": "3`0"}, "should sum to 20 .*, but sum to 19"),
    "too many runs": ({"size": [4, 5], "counts": [3, 18]}, "should sum to 20 .*, but sum to 21"),
    "swapped size": ({"size": [5, 4], "counts": [3, 17]}, r"size should be \[4, 5\], but is \[5, 4\]"),
    "no size": ({"counts": [3, 17]}, r"size should be \[4, 5\], but is None"),
    "no counts": ({"size": [4, 5]}, "counts are neither a list nor text: None"),
    "text among the counts": ({"size": [4, 5], "counts": [3, "17"]}, "include '17'"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_masks_that_do_not_fill_their_image_are_refused(name):
    mask, message = BAD_MASKS[name]
    with pytest.raises(UserError, match=f"mask 2 has an RLE mask whose .*{message}"):
        require_valid_masks([WHOLE, [[0, 0, 1, 1, 0, 1]], mask], [(4, 5)] * 3)
    require_valid_masks([WHOLE, None, {"size": (4, 5), "counts": b"3a0"}], [(4, 5)] * 3)


def test_masks_are_validated_in_batches(monkeypatch):
    monkeypatch.setattr("flash_internimage.data.run_lengths._BATCH", 7)
    masks = [{"size": [4, 5], "counts": "3a0"}] * 5 + [{"size": [4, 5], "counts": "3`0"}]
    with pytest.raises(UserError, match="mask 5 has an RLE mask"):
        require_valid_masks(masks, [(4, 5)] * 6)
