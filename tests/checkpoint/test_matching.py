"""Layers of the published detectors that are re-initialized for another number of classes."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from flash_internimage import model_zoo
from flash_internimage.checkpoint.matching import match
from flash_internimage.checkpoint.published import to_detectron2
from flash_internimage.data import literal_num_classes

MANIFESTS = Path(__file__).parents[1] / "reference" / "manifests"

WEIGHT_AND_BIAS = ("weight", "bias")
CLASS_LAYERS = {
    "mask_rcnn_flash_intern_image_t_fpn_1x_coco": [
        f"roi_heads.{layer}.{kind}"
        for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
        for kind in WEIGHT_AND_BIAS
    ],
    "cascade_flash_intern_image_l_fpn_1x_coco": [
        *(
            f"roi_heads.box_predictor.{stage}.{layer}.{kind}"
            for stage in range(3)
            for layer in ("cls_score", "bbox_pred")
            for kind in WEIGHT_AND_BIAS
        ),
        *(f"roi_heads.mask_head.{stage}.predictor.{kind}" for stage in range(3) for kind in WEIGHT_AND_BIAS),
    ],
    "dino_4scale_flash_internimage_t_1x_coco": [
        *(f"transformer.class_heads.{layer}.{kind}" for layer in range(7) for kind in WEIGHT_AND_BIAS),
        "denoising.label_embedding.weight",
    ],
}


def published_tensors(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a published checkpoint under this project's names, on the meta device."""
    file = MANIFESTS / json.loads((MANIFESTS / "index.json").read_text())[name]
    tensors = json.loads(file.read_text())["tensors"]
    return to_detectron2({key: torch.empty(entry["shape"], device="meta") for key, entry in tensors.items()})


@pytest.mark.parametrize(("name", "class_layers"), CLASS_LAYERS.items(), ids=CLASS_LAYERS.keys())
def test_only_the_class_layers_of_a_published_detector_are_reinitialized(name, class_layers):
    cfg = model_zoo.get_config(name)
    for node in literal_num_classes(cfg.model):
        node.num_classes = 2
    with torch.device("meta"):
        model = instantiate(cfg.model).state_dict()
    result = match(model, published_tensors(name))
    assert sorted(result.reinitialized) == sorted(class_layers)
    assert (result.missing, result.unexpected, result.wrong_shape) == ((), (), ())
    summary = f"{len(model) - len(class_layers)} matched, {len(class_layers)} re-initialized for another number of classes"
    assert result.summary().startswith(summary)
    assert all(layer in result.summary() for layer in class_layers), "all are listed"


# Tensors of the mask heads: three or four convolutions, the upsampling and the predictor, each with weight and bias.
MASK_HEADS = {
    "mask_rcnn_flash_intern_image_t_fpn_1x_coco": ("mask_head", 12),
    "cascade_flash_intern_image_l_fpn_1x_coco": ("mask_heads", 36),
}


def without_masks(name: str) -> dict[str, torch.Tensor]:
    """The tensors of a detector without its mask heads, on the meta device."""
    heads = (cfg := model_zoo.get_config(name)).model.roi_heads
    heads.update({MASK_HEADS[name][0]: None, "mask_pooler": None, "mask_in_features": None})
    with torch.device("meta"):
        return instantiate(cfg.model).state_dict()


@pytest.mark.parametrize(("name", "tensors"), [(name, count) for name, (_, count) in MASK_HEADS.items()], ids=MASK_HEADS)
def test_the_mask_heads_of_a_published_detector_are_left_in_the_file(name, tensors):
    model = without_masks(name)
    result = match(model, published_tensors(name))
    assert list(result.left_out) == ["roi_heads.mask_head"]
    assert (result.reinitialized, result.missing, result.unexpected, result.wrong_shape) == ((), (), (), ())
    assert result.summary() == f"{len(model)} matched, {tensors} left in the file (the model has no roi_heads.mask_head)"


def test_heads_of_another_family_are_unexpected():
    mask_rcnn, cascade = MASK_HEADS
    result = match(without_masks(mask_rcnn), published_tensors(cascade))
    assert result.left_out == {}
    assert any(name.startswith("roi_heads.mask_head") for name in result.unexpected)


def test_a_part_of_a_head_that_the_model_has_is_unexpected():
    name = "mask_rcnn_flash_intern_image_t_fpn_1x_coco"
    file = published_tensors(name)
    model = {name: tensor for name, tensor in file.items() if "mask_fcn4" not in name}
    assert match(model, file).unexpected == ("roi_heads.mask_head.mask_fcn4.weight", "roi_heads.mask_head.mask_fcn4.bias")
    assert match(model, file).left_out == {}


def test_a_class_layer_with_another_number_of_channels_has_a_wrong_shape():
    model = {"roi_heads.box_predictor.cls_score.weight": torch.empty(3, 64)}
    file = {"roi_heads.box_predictor.cls_score.weight": torch.empty(81, 1024)}
    assert match(model, file).reinitialized == ()
    assert match(model, file).wrong_shape == (
        "roi_heads.box_predictor.cls_score.weight: (81, 1024) in the file, (3, 64) in the model",
    )
