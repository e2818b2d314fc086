"""The function ``detect`` of each family gives the same detections as its ordinary inference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from flash_internimage.errors import UserError
from flash_internimage.export import exportable_detector
from tests.export.small import FAMILIES, build, draw

BATCHES = [
    pytest.param([(96, 128), (90, 70)], (96, 128), id="two images"),
    pytest.param([(128, 100), (70, 160)], (128, 160), id="two images, neither of the size of the batch"),
    pytest.param([(130, 100)], (130, 101), id="one image, padded to the divisor"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return build(request.param)


@torch.no_grad()
def ordinary(model: nn.Module, images: Tensor, sizes: Tensor) -> list:
    inputs = [{"image": image[:, :height, :width]} for image, (height, width) in zip(images, sizes.tolist(), strict=True)]
    return [output["instances"] for output in model(inputs)]


@pytest.mark.parametrize(("sizes", "size"), BATCHES)
def test_detections_equal_those_of_the_ordinary_inference(model, sizes, size):
    images, sizes = draw(sizes, *size)
    boxes, scores, classes, counts, *masks = exportable_detector(model)(images, sizes)
    assert boxes.dtype == scores.dtype == torch.float32
    assert classes.dtype == counts.dtype == torch.int64
    for image, expected in enumerate(ordinary(model, images, sizes)):
        count = int(counts[image])
        assert count == len(expected) >= 30
        # The ordinary inference may pool with other kernels; coordinates above 128 pixels have an ulp of 1.5e-5.
        assert_close(boxes[image, :count], expected.pred_boxes.tensor, rtol=0, atol=4 * 1.5e-5)
        assert_close(scores[image, :count], expected.scores)
        assert torch.equal(classes[image, :count], expected.pred_classes)
        for padding in (boxes, scores, classes, *masks):
            assert not padding[image, count:].any()


@pytest.mark.parametrize("family", ["mask_rcnn", "cascade"])
def test_masks_are_the_probabilities_before_they_are_pasted(family):
    model = build(family)
    images, sizes = draw([(96, 128), (90, 70)], 96, 128)
    *_, counts, masks = exportable_detector(model)(images, sizes)
    assert masks.shape == (2, 100, 28, 28)
    inputs = [{"image": image[:, :height, :width]} for image, (height, width) in zip(images, sizes.tolist(), strict=True)]
    with torch.no_grad():
        expected = model.inference(inputs, do_postprocess=False)
    for image, instances in enumerate(expected):
        # Postprocessing drops boxes without area, of which there are none.
        assert_close(masks[image, : int(counts[image])], instances.pred_masks[:, 0])


def test_pixels_beyond_an_image_do_not_matter(model):
    images, sizes = draw([(96, 128), (90, 70)], 96, 128)
    detector = exportable_detector(model)
    other = images.clone()
    other[1, :, 90:] = 255
    other[1, :, :, 70:] = 0
    for found, expected in zip(detector(other.float(), sizes), detector(images, sizes), strict=True):
        assert torch.equal(found, expected)


def test_the_number_of_rows_can_be_chosen(model):
    images, sizes = draw([(96, 128)], 96, 128)
    few, all_rows = exportable_detector(model, max_detections=7)(images, sizes), exportable_detector(model)(images, sizes)
    assert few[0].shape == (1, 7, 4)
    assert few[3].tolist() == [7]
    for found, expected in zip(few[:3], all_rows[:3], strict=True):
        assert_close(found, expected[:, :7])


def test_an_image_without_detections_has_a_count_of_zero(model):
    if not hasattr(model, "roi_heads") and not hasattr(model, "test_score_thresh"):
        pytest.skip("DINO has no score threshold")
    predictors = [module for module in model.modules() if hasattr(module, "test_score_thresh")]
    thresholds = [predictor.test_score_thresh for predictor in predictors]
    try:
        for predictor in predictors:
            predictor.test_score_thresh = 1.0
        found = exportable_detector(model)(*draw([(96, 128)], 96, 128))
    finally:
        for predictor, threshold in zip(predictors, thresholds, strict=True):
            predictor.test_score_thresh = threshold
    assert found[3].tolist() == [0]
    assert not any(field.any() for field in found)


def test_a_model_of_no_family_is_refused_with_the_families_that_can_be_exported():
    with pytest.raises(UserError, match=r"\(Cascade Mask R-CNN, DINO, Mask R-CNN, RetinaNet\), got Linear"):
        exportable_detector(nn.Linear(2, 2))


@pytest.mark.parametrize("family", ["mask_rcnn", "retinanet"])
def test_an_unlimited_number_of_detections_needs_a_number_of_rows(family):
    model = build(family)
    for module in model.modules():
        for name in ("test_topk_per_image", "max_detections_per_image"):
            if hasattr(module, name):
                setattr(module, name, -1)
    with pytest.raises(UserError, match="max_detections should be positive, got -1"):
        exportable_detector(model)(*draw([(64, 64)], 64, 64))
