"""RetinaNet with its family: fine-tuning to another number of classes, and parameter groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from flash_internimage import model_zoo
from flash_internimage.checkpoint import Checkpointer, CheckpointError
from flash_internimage.family_lookup import detector_family

CLASS_LAYERS = ("head.cls_score.weight", "head.cls_score.bias")


def build(num_classes: int) -> nn.Module:
    """The RetinaNet of the shapes, with a smaller backbone."""
    model = model_zoo.get_config("retinanet_flash_internimage_nano").model
    model.backbone.bottom_up.update(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8])
    model.num_classes = num_classes
    return instantiate(model)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of four classes."""
    Checkpointer(build(4), str(tmp_path)).save("model")
    return tmp_path / "model.pth"


def test_a_checkpoint_of_four_classes_is_fine_tuned_to_two(trained: Path):
    model = build(2)
    initial = {name: model.state_dict()[name].clone() for name in CLASS_LAYERS}
    checkpointer = Checkpointer(model)
    checkpointer.load(str(trained))
    assert checkpointer.last_match.reinitialized == CLASS_LAYERS
    loaded = torch.load(trained, weights_only=True)["model"]
    for name, tensor in model.state_dict().items():
        expected = initial[name] if name in CLASS_LAYERS else loaded[name]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)

    image = {"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), "height": 64, "width": 64}
    boxes = Boxes(torch.tensor([[8.0, 8.0, 40.0, 56.0]]))
    image["instances"] = Instances((64, 64), gt_boxes=boxes, gt_classes=torch.tensor([1]))
    with EventStorage():  # detectron2's RetinaNet logs its number of positive anchors
        losses = model.train()([image])
    sum(losses.values()).backward()
    assert model.head.cls_score.weight.grad.isfinite().all()


def test_evaluation_needs_the_number_of_classes_of_the_checkpoint(trained: Path):
    with pytest.raises(CheckpointError, match="it does not fill the model, 2 tensors would stay random"):
        Checkpointer(build(2)).load_complete(str(trained))


def test_box_deltas_do_not_depend_on_the_number_of_classes(trained: Path):
    model = build(4)
    model.head.bbox_pred = nn.Conv2d(64, 3 * 4, 3)  # three anchors instead of nine
    with pytest.raises(CheckpointError, match=r"2 of another shape \(head.bbox_pred.weight"):
        Checkpointer(model).load(str(trained))


def test_the_family_is_recognized_by_the_names_of_the_tensors():
    assert detector_family(build(4).state_dict()).title == "RetinaNet"
