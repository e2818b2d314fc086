"""Resizing, cropping and joining images with their objects."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_internimage.data.samples import crop_sample, join_instances, place_instances, resize_sample, windows_of
from tests.data.painted import check_aligned, paint, painted


@settings(max_examples=30)
@given(sample=painted(), data=st.data())
def test_crop_keeps_pixels_boxes_and_masks_aligned(sample, data):
    height, width = sample.size
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    cropped = crop_sample(sample, (x0, y0, x1, y1))
    assert cropped.size == (y1 - y0, x1 - x0)
    check_aligned(cropped)


@settings(max_examples=30)
@given(sample=painted(), factor=st.integers(1, 4))
def test_enlarging_by_a_whole_factor_repeats_the_pixels_of_masks(sample, factor):
    height, width = sample.size
    enlarged = resize_sample(sample, factor * height, factor * width)
    assert (enlarged.instances.gt_boxes.tensor == factor * sample.instances.gt_boxes.tensor).all()
    repeated = sample.instances.gt_masks.tensor.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    assert (enlarged.instances.gt_masks.tensor == repeated).all()


@settings(max_examples=30)
@given(sample=painted(), height=st.integers(1, 60), width=st.integers(1, 60))
def test_any_size_keeps_masks_within_a_pixel_of_their_boxes(sample, height, width):
    resized = resize_sample(sample, height, width)
    assert resized.size == (height, width)
    for box, (bitmap, (x0, y0, x1, y1)) in zip(
        resized.instances.gt_boxes.tensor.tolist(), windows_of(resized.instances.gt_masks), strict=True
    ):
        assert bitmap.all()
        if bitmap.size:
            assert np.abs(np.array(box) - [x0, y0, x1, y1]).max() <= 1


def test_objects_that_keep_too_little_are_dropped():
    sample = paint(10, 10, [(0, 0, 2, 10), (2, 0, 6, 10)], 1)
    assert crop_sample(sample, (3, 0, 10, 10)).instances.gt_classes.tolist() == [2]
    assert crop_sample(sample, (1, 0, 10, 10), min_visible=0.5).instances.gt_classes.tolist() == [1, 2]
    assert crop_sample(sample, (1, 0, 10, 10), min_visible=0.51).instances.gt_classes.tolist() == [2]


@pytest.mark.parametrize("with_masks", [True, False])
def test_placed_and_joined_by_hand(with_masks):
    left, right = (paint(4, 3, [(1, 2, 3, 4)], class_, with_masks) for class_ in (5, 6))
    joined = join_instances([place_instances(left.instances, 0, 1, (6, 8)), place_instances(right.instances, 4, 0, (6, 8))])
    assert joined.image_size == (6, 8)
    assert joined.gt_boxes.tensor.tolist() == [[1, 3, 3, 5], [5, 2, 7, 4]]
    assert joined.gt_classes.tolist() == [5, 6]
    assert joined.has("gt_masks") == with_masks
    if with_masks:
        expected = torch.zeros(2, 6, 8, dtype=torch.bool)
        expected[0, 3:5, 1:3] = expected[1, 2:4, 5:7] = True
        assert (joined.gt_masks.tensor == expected).all()
        assert joined.gt_masks[1].tensor.sum() == 4
    assert len(join_instances([left.instances[:0], right.instances])) == 1
