"""Run-length encoded masks: valid ones are those that pycocotools decodes to as many pixels, and cropping keeps the pixels."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_internimage.data.run_lengths import crop_columns, problem_of_counts, problems_of_strings, require_valid_masks
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


@pytest.mark.parametrize(
    ("counts", "problem"),
    [([1, 2.0], "2.0"), ([1, True], "True"), ([None], "None"), (["3"], "'3'"), ([5, -2], "-2"), ([1, 1], "sum to 2")],
)
def test_invalid_counts(counts, problem):
    assert problem in problem_of_counts(counts, 3)


def test_cropping_removes_columns_of_zeros():
    random = np.random.RandomState(1)
    for _ in range(300):
        mask = random_mask(random)
        rle = mask_util.encode(mask)
        x, _, width, _ = (int(number) for number in mask_util.toBbox(rle))
        cropped = crop_columns(rle["counts"], len(mask), x, mask.shape[1] - x - width)
        expected = mask_util.encode(np.asfortranarray(mask[:, x : x + width]))
        if width:
            assert list(problems_of_strings([cropped], [len(mask) * width])) == []
            np.testing.assert_array_equal(
                mask_util.decode({"size": [len(mask), width], "counts": cropped}), mask_util.decode(expected)
            )


def test_cropping_of_unusual_runs_is_noticed():
    counts = mask_util.frPyObjects({"size": [4, 5], "counts": [8, 4, 8, 0]}, 4, 5)["counts"]  # ends with no ones
    assert len(list(problems_of_strings([crop_columns(counts, 4, 2, 2)], [4]))) == 1


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
