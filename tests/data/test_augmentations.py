"""Augmentations: their effect on images, boxes and masks, and the distributions that they draw from."""

import numpy as np
import pytest
from detectron2.data.transforms import AugInput

from flash_internimage.data import CropRange, ExactResizeTransform, OneOf, ResizeToFit, ScaleJitter


def test_resize_scales_boxes_separately_along_each_axis():
    # 427 x 640 becomes 800 x 1199: the scale factors differ because sizes are rounded.
    transform = ResizeToFit([800], 1333).get_transform(np.zeros((427, 640, 3), dtype=np.uint8))
    box = transform.apply_box(np.array([[64.0, 42.7, 320.0, 427.0]]))
    np.testing.assert_allclose(box, [[119.9, 80.0, 599.5, 800.0]], rtol=1e-12)


def test_resize_of_masks_is_nearest_neighbor():
    transform = ExactResizeTransform(2, 2, 4, 4)
    mask = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(transform.apply_segmentation(mask), np.kron(mask, np.ones((2, 2))))


def test_resize_inverse():
    transform = ExactResizeTransform(427, 640, 800, 1199)
    box = np.array([[10.0, 20.0, 30.0, 40.0]])
    np.testing.assert_allclose(transform.inverse().apply_box(transform.apply_box(box)), box)


def test_resize_draws_every_short_side():
    image = np.zeros((50, 100, 3), dtype=np.uint8)
    resize = ResizeToFit([10, 20, 30], 1000)
    heights = [resize.get_transform(image).new_height for _ in range(600)]
    values, counts = np.unique(heights, return_counts=True)
    assert values.tolist() == [10, 20, 30]
    assert (abs(counts - 200) < 60).all()  # five standard deviations of a count


def test_crop_draws_sides_within_the_range_and_independently():
    image = np.zeros((390, 1000, 3), dtype=np.uint8)
    crops = [CropRange(384, 600).get_transform(image) for _ in range(4000)]
    heights, widths = np.array([(crop.h, crop.w) for crop in crops]).T
    assert (heights.min(), heights.max()) == (384, 390)
    assert (widths.min(), widths.max()) == (384, 600)
    assert abs(widths.mean() - 492) < 6  # the mean of a uniform distribution, within six standard errors
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.08


def test_crop_reaches_every_corner_and_stays_inside():
    image = np.zeros((8, 9, 3), dtype=np.uint8)
    crops = [CropRange(6, 6).get_transform(image) for _ in range(300)]
    assert {(crop.x0, crop.y0) for crop in crops} == {(x, y) for x in range(4) for y in range(3)}


def test_crop_keeps_a_small_image():
    crop = CropRange(384, 600).get_transform(np.zeros((100, 200, 3), dtype=np.uint8))
    assert (crop.x0, crop.y0, crop.w, crop.h) == (0, 0, 200, 100)


def test_one_of_draws_every_policy_and_applies_all_of_it():
    small, smaller, large = ResizeToFit([10], 100), ResizeToFit([5], 100), ResizeToFit([40], 100)
    policies = OneOf([[large], [small, smaller]])
    heights = []
    for _ in range(200):
        aug_input = AugInput(np.zeros((20, 20, 3), dtype=np.uint8))
        transforms = policies(aug_input)
        assert transforms.apply_box(np.array([[0.0, 0, 20, 20]]))[0, 3] == aug_input.image.shape[0]
        heights.append(aug_input.image.shape[0])
    assert set(heights) == {40, 5}
    assert 60 < heights.count(40) < 140


def test_scale_jitter_spans_its_range():
    image = np.zeros((50, 100, 3), dtype=np.uint8)
    widths = [ScaleJitter(0.1, 2.0, 64).get_transform(image).new_width for _ in range(2000)]
    assert min(widths) == pytest.approx(6.4, abs=1)
    assert max(widths) == pytest.approx(128, abs=1)
