"""The model zoo: configs, checkpoints and models of the published detectors."""

from pathlib import Path

import pytest
import torch

from flash_internimage import model_zoo
from flash_internimage.checkpoint import CheckpointError, hub
from tests.reference import Reference

NAME = "mask_rcnn_flash_intern_image_t_fpn_1x_coco"


def test_all_twelve_detectors_are_listed():
    names = model_zoo.list()
    assert len(names) == 12
    assert NAME in names


def test_config_is_found_by_its_file_name():
    assert model_zoo.get_config(NAME).model.roi_heads.num_classes == 80
    assert model_zoo.get_config("mask_rcnn_flash_internimage_nano").model.roi_heads.num_classes == 4


@pytest.mark.parametrize("function", [model_zoo.get_config, model_zoo.get_checkpoint, model_zoo.get])
def test_error_for_a_misspelled_name_suggests_similar_names(function):
    with pytest.raises(ValueError, match=f"'mask_rcnn_flash_internimage_t_1x'.*did you mean .*{NAME}"):
        function("mask_rcnn_flash_internimage_t_1x")


def test_unpublished_model_has_no_checkpoint():
    with pytest.raises(ValueError, match="no published checkpoint for 'mask_rcnn_flash_internimage_nano'"):
        model_zoo.get("mask_rcnn_flash_internimage_nano", trained=True)


def test_untrained_model_needs_no_network(monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda path: pytest.fail(f"{path} was fetched"))
    model = model_zoo.get("mask_rcnn_flash_internimage_nano")
    assert model.training


def test_trained_model_has_the_published_weights(monkeypatch, tmp_path, repository: Path):
    weights = Reference(repository / "tests" / "reference").checkpoint(NAME)
    torch.save({"meta": {}, "state_dict": weights}, tmp_path / "published.pth")
    fetched = []
    monkeypatch.setattr(hub, "fetch", lambda path: fetched.append(path) or str(tmp_path / "published.pth"))
    model = model_zoo.get(NAME, trained=True)
    assert fetched == ["hf://OpenGVLab/DCNv4/mask_rcnn_flash_internimage_t_fpn_1x_coco.pth"]
    assert not model.training
    torch.testing.assert_close(
        model.roi_heads.box_predictor.cls_score.weight.data, weights["roi_head.bbox_head.fc_cls.weight"], rtol=0, atol=0
    )


def test_error_of_a_failed_download_is_passed_on(monkeypatch):
    def offline(path):
        raise CheckpointError(f"{path}: not in the cache")

    monkeypatch.setattr(hub, "fetch", offline)
    with pytest.raises(CheckpointError, match="not in the cache"):
        model_zoo.get(NAME, trained=True)
