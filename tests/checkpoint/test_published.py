"""The tables of published names are bijections on the tensor names of the published models."""

import json
from pathlib import Path

import pytest
import torch

from flash_internimage.checkpoint.published import (
    name_table,
    published_family,
    published_signature,
    to_detectron2,
    to_published,
)
from flash_internimage.family_lookup import detector_families, detector_family

MANIFESTS = Path(__file__).parents[1] / "reference" / "manifests"
RECIPES = json.loads((MANIFESTS / "index.json").read_text())


def manifest(recipe: str) -> dict:
    return json.loads((MANIFESTS / RECIPES[recipe]).read_text())["tensors"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_renaming_is_one_to_one_and_invertible_for_every_recipe(recipe):
    published = manifest(recipe)
    ours = to_detectron2(published)
    assert len(ours) == len(published)
    assert list(ours.values()) == list(published.values()), "values or their order changed"
    assert list(to_published(ours).items()) == list(published.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_family_is_recognized_by_either_set_of_names(recipe):
    published = manifest(recipe)
    title = {"mask": "Mask R-CNN", "cascade": "Cascade Mask R-CNN", "dino": "DINO"}[recipe.split("_")[0]]
    assert published_family(published).title == title
    assert detector_family(to_detectron2(published)).title == title
    assert detector_family(published) is None
    assert published_family(to_detectron2(published)) is None


def test_a_signature_belongs_to_one_family():
    families = [family for family in detector_families() if family.published_names]
    assert len(families) == 3
    for family in families:
        assert [other for other in families if name_table(other).rename(published_signature(family))] == [family]
        assert [other for other in families if name_table(other).inverse.rename(family.signature)] == [family]


def test_a_round_trip_returns_the_same_tensor_objects():
    tensors = {name: torch.empty(1) for name in manifest("mask_rcnn_flash_intern_image_t_fpn_1x_coco")}
    back = to_published(to_detectron2(tensors))
    assert all(back[name] is tensor for name, tensor in tensors.items())


def test_the_message_has_the_name_without_counterpart():
    tensors = {**manifest("mask_rcnn_flash_intern_image_t_fpn_1x_coco"), "surprise.weight": 0}
    with pytest.raises(ValueError, match=r"published Mask R-CNN checkpoint: 1 name has no counterpart.*'surprise\.weight'"):
        to_detectron2(tensors)


def test_other_state_dicts_are_refused():
    with pytest.raises(ValueError, match=r"expected the state dict of a published detector .* starts with: conv1\.weight"):
        to_detectron2({"conv1.weight": 0})
    with pytest.raises(ValueError, match="expected the state dict of one of this project's detectors .* nothing"):
        to_published({})


def test_a_detector_without_published_checkpoints_has_no_published_names():
    with pytest.raises(ValueError, match="RetinaNet state dict: this detector has no published checkpoints"):
        to_published({"head.cls_score.weight": 0})
