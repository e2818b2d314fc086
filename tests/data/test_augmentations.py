"""Augmentations: their effect on images, boxes and masks, and the distributions that they draw from."""

import numpy as np
import pytest
from detectron2.data.transforms import AugInput

from flash_internimage.data import CropRange, ExactResizeTransform, OneOf, PhotometricDistortion, ResizeToFit, ScaleJitter


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


COLORS = np.array([[[200, 40, 60], [90, 90, 90], [0, 0, 0]]], dtype=np.uint8)


def distorted(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, number=200):
    """The distinct results of a distortion of ``COLORS``, as floats."""
    augmentation = PhotometricDistortion(brightness, contrast, saturation, hue)
    results = [augmentation.get_transform(COLORS).apply_image(COLORS) for _ in range(number)]
    assert all(result.dtype == np.uint8 for result in results)
    return np.unique(results, axis=0).astype(float)


def test_photometric_distortion_of_nothing():
    assert (distorted() == COLORS).all()


def test_brightness_is_added():
    results = distorted(brightness=20)
    differences = results[:, 0, 1] - COLORS[0, 1]
    assert (differences == differences[:, :1]).all()
    assert differences.min() == pytest.approx(-20, abs=1)
    assert differences.max() == pytest.approx(20, abs=1)
    assert (results[:, 0, 2] >= 0).all(), "clipped"


def test_contrast_is_a_factor():
    results = distorted(contrast=0.5)
    assert results[:, 0, 1].min() == pytest.approx(45, abs=1)
    assert results[:, 0, 1].max() == pytest.approx(135, abs=1)
    assert (results[:, 0, 2] == 0).all()


def test_saturation_keeps_gray_and_luma():
    results = distorted(saturation=1.0)
    assert (results[:, 0, 1:] == COLORS[0, 1:]).all()
    luma = np.array([0.299, 0.587, 0.114])
    unclipped = results[(results < 255).all(axis=(1, 2, 3)) & (results[:, 0, 0] > 0).all(axis=1)]
    assert np.abs(unclipped[:, 0, 0] @ luma - COLORS[0, 0] @ luma).max() < 1
    assert np.ptp(results[:, 0, 0], axis=1).min() < 10, "almost gray"


def test_hue_keeps_gray_and_changes_colors():
    results = distorted(hue=18)
    assert (results[:, 0, 1:] == COLORS[0, 1:]).all()
    assert results[:, 0, 0, 2].max() > 80, "red turns to magenta"
    assert results[:, 0, 0, 1].max() > 55, "and to orange"


def test_half_of_the_images_keep_their_brightness():
    augmentation = PhotometricDistortion(brightness=30, contrast=0, saturation=0, hue=0)
    offsets = np.array([augmentation.get_transform(COLORS).offset for _ in range(400)])
    assert 150 < (offsets == 0).sum() < 250
    box = np.array([[1.0, 2, 3, 4]])
    assert (augmentation.get_transform(COLORS).apply_box(box) == box).all()
