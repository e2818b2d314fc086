from pathlib import Path

import pytest
import torch
from torch import nn

from flash_internimage.backbones import flash_intern_image_t, pretrained
from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.backbones.pretrained import load_backbone
from flash_internimage.backbones.sizes import IMAGENET_CHECKPOINTS, SIZES
from flash_internimage.checkpoint import CheckpointError
from flash_internimage.model_zoo import get_config
from flash_internimage.model_zoo import list as published_names

SMALL = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8)}
CLASSIFIER = {"head.weight": torch.ones(10, 8), "conv_head.0.weight": torch.ones(8, 128, 1, 1)}


@pytest.fixture
def source() -> dict[str, torch.Tensor]:
    net = FlashInternImageBase(**SMALL)
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.state_dict()


def assert_loaded(net: nn.Module, source: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(tensor, source[name]) for name, tensor in net.state_dict().items())


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("out_features", [["res2"], ["res4"], ["res2", "res5"]])
@pytest.mark.parametrize("kind", ["backbone", "classifier", "mmdetection", "detectron2"])
def test_loads_the_backbone_of_every_kind_of_checkpoint(kind: str, out_features: list[str], source: dict, tmp_path: Path):
    contents = {
        "backbone": source,
        "classifier": {"model": {**source, **CLASSIFIER}},
        "mmdetection": {"state_dict": {**prefixed("backbone.", source), "bbox_head.weight": torch.ones(1)}},
        "detectron2": {"model": {**prefixed("backbone.bottom_up.", source), "backbone.fpn_output2.weight": torch.ones(1)}},
    }
    torch.save(contents[kind], tmp_path / "weights.pth")
    net = FlashInternImageBase(**SMALL, out_features=out_features)
    load_backbone(net, str(tmp_path / "weights.pth"))
    assert_loaded(net, source)


def test_another_size_is_refused(source, tmp_path: Path):
    torch.save(source, tmp_path / "small.pth")
    with pytest.raises(CheckpointError, match=r"small.pth: its backbone is another than the model's, \d+ tensors"):
        load_backbone(FlashInternImageBase(**{**SMALL, "depths": (1, 2, 1, 1)}), str(tmp_path / "small.pth"))
    with pytest.raises(CheckpointError, match="its backbone is another than the model's"):
        flash_intern_image_t(pretrained=tmp_path / "small.pth")


def test_a_file_without_such_a_backbone_is_refused(tmp_path: Path):
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"resnet.pth: expected one FlashInternImage backbone in it, got 0"):
        load_backbone(FlashInternImageBase(**SMALL), str(tmp_path / "resnet.pth"))


def test_pretrained_names_the_published_checkpoint(source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(source, tmp_path / "weights.pth")
    fetched = []
    monkeypatch.setattr(pretrained.hub, "fetch", lambda path: fetched.append(path) or str(tmp_path / "weights.pth"))
    assert_loaded(flash_intern_image_t(pretrained=True, **SMALL), source)
    assert fetched == [IMAGENET_CHECKPOINTS["t"]]


def test_detectors_start_from_the_same_sizes_and_checkpoints():
    used = set()
    for name in published_names():
        config = get_config(name)
        backbone = config.model.backbone.get("bottom_up", config.model.backbone)
        size = next(size for size, arguments in SIZES.items() if arguments["channels"] == backbone.channels)
        assert config.train.init_checkpoint == IMAGENET_CHECKPOINTS[size]
        used.add(size)
    assert used == set(SIZES)
