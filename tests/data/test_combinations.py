"""Mosaic, MixUp and copy-paste: boxes, masks and pixels stay aligned, whatever the sizes and the objects."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_internimage.data import CopyPaste, MixUp, Mosaic
from flash_internimage.data.combinations import crop_to_canvas, remove_hidden
from tests.data.painted import check_aligned, paint, painted

OTHERS = st.tuples(painted(first_class=11), painted(first_class=21), painted(first_class=31))
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=30)
@given(sample=painted(), others=OTHERS, seed=SEEDS)
def test_mosaic_without_scaling_is_aligned(sample, others, seed):
    np.random.seed(seed)
    rest = iter(others)
    combined = Mosaic(prob=1.0, low=1.0, high=1.0, min_visible=0.0)(sample, lambda: next(rest))
    assert combined.size == sample.size
    assert next(rest, None) is None, "each of four images once"
    check_aligned(combined)


@settings(max_examples=30)
@given(sample=painted(), others=OTHERS, seed=SEEDS)
def test_scaled_mosaic_has_masks_within_a_pixel_of_their_boxes(sample, others, seed):
    np.random.seed(seed)
    rest = iter(others)
    combined = Mosaic(prob=1.0)(sample, lambda: next(rest))
    for box, mask in zip(combined.instances.gt_boxes.tensor, combined.instances.gt_masks.tensor.numpy(), strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert np.abs(box.numpy() - tight).max() <= 1


@settings(max_examples=30)
@given(sample=painted(), other=painted(first_class=11), seed=SEEDS, object_prob=st.sampled_from([0.0, 0.5, 1.0]))
def test_pasted_objects_hide_what_is_behind(sample, other, seed, object_prob):
    np.random.seed(seed)
    combined = CopyPaste(prob=1.0, object_prob=object_prob)(sample, lambda: other)
    assert combined.size == sample.size
    check_aligned(combined)
    pasted = (combined.instances.gt_classes > 10).sum()
    assert pasted <= (len(other.instances) if object_prob else 1)


@settings(max_examples=30)
@given(sample=painted(), other=painted(first_class=11), seed=SEEDS)
def test_mixup_keeps_the_objects_of_both(sample, other, seed):
    np.random.seed(seed)
    combined = MixUp(alpha=1e9).combine(sample, lambda: other)  # the weight is one half
    assert combined.size == sample.size
    np.random.seed(seed)
    np.random.beta(1e9, 1e9)
    placed, x, y = crop_to_canvas(other, sample.size)
    expected = sample.image.astype(float)
    window = expected[y : y + placed.size[0], x : x + placed.size[1]]
    window[:] = (window + placed.image) / 2
    assert np.abs(combined.image - expected).max() <= 0.51
    number = len(sample.instances)
    assert (combined.instances.gt_masks.tensor[:number] == sample.instances.gt_masks.tensor).all()
    assert (combined.instances.gt_boxes.tensor[:number] == sample.instances.gt_boxes.tensor).all()
    moved = placed.instances.gt_boxes.tensor + torch.tensor([x, y, x, y])
    assert (combined.instances.gt_boxes.tensor[number:] == moved).all()


@settings(max_examples=30)
@given(sample=painted(), height=st.integers(1, 50), width=st.integers(1, 50), seed=SEEDS)
def test_an_axis_lies_inside_the_canvas_or_covers_it(sample, height, width, seed):
    np.random.seed(seed)
    cropped, x, y = crop_to_canvas(sample, (height, width))
    check_aligned(cropped)
    assert cropped.size == (min(height, sample.size[0]), min(width, sample.size[1]))
    assert 0 <= x <= width - cropped.size[1]
    assert 0 <= y <= height - cropped.size[0]


def test_hidden_pixels_by_hand():
    sample = paint(6, 6, [(0, 0, 4, 6), (4, 0, 6, 2)], 1)
    hidden = np.zeros((6, 6), dtype=bool)
    hidden[:3, 2:] = True
    remaining = remove_hidden(sample.instances, hidden)
    assert remaining.gt_classes.tolist() == [1], "the second is hidden completely"
    assert remaining.gt_boxes.tensor.tolist() == [[0, 0, 4, 6]]
    assert remaining.gt_masks.tensor.sum() == 24 - 6
    hidden[:, 2:] = True
    assert remove_hidden(sample.instances, hidden).gt_boxes.tensor.tolist() == [[0, 0, 2, 6]]
    assert sample.instances.gt_masks.tensor.sum() == 24 + 4, "not modified"


@pytest.mark.parametrize("combination", [Mosaic(prob=0.25), MixUp(prob=0.25), CopyPaste(prob=0.25)], ids=lambda c: c.name)
def test_probability(combination):
    np.random.seed(0)
    sample, other = paint(8, 8, [(0, 0, 4, 4)], 1), paint(8, 8, [(2, 2, 8, 8)], 11)
    changed = sum(combination(sample, lambda: other) is not sample for _ in range(400))
    assert 70 <= changed <= 130


def test_nothing_to_paste():
    sample, other = paint(8, 8, [(0, 0, 4, 4)], 1), paint(8, 8, [], 11)
    assert CopyPaste(prob=1.0)(sample, lambda: other) is sample


@pytest.mark.parametrize("combination", [Mosaic(prob=1.0), MixUp(prob=1.0)], ids=lambda c: c.name)
def test_boxes_without_masks(combination):
    sample, other = (paint(8, 8, [(0, 0, 8, 8)], class_, with_masks=False) for class_ in (1, 11))
    combined = combination(sample, lambda: other)
    assert not combined.instances.has("gt_masks")
    assert len(combined.instances) == (4 if combination.name == "mosaic" else 2)
