"""Models for the analysis: one that takes a known time, and a small detector."""

from pathlib import Path

import pytest
import torch
from torch import nn

from flash_internimage.cli.analyze import build
from tests.analysis.timed import Part


@pytest.fixture
def pyramid_model() -> Part:
    backbone = Part(20, bottom_up=Part(40))
    box_predictor = Part(5, cls_score=Part())
    box_predictor.cls_score.weight = nn.Parameter(torch.zeros(1))  # the signature of Mask R-CNN
    return Part(10, backbone=backbone, proposal_generator=Part(30), roi_heads=Part(60, box_predictor=box_predictor))


@pytest.fixture(scope="module")
def nano(repository: Path) -> nn.Module:
    """A small Mask R-CNN."""
    return build(str(repository / "configs/shapes/mask_rcnn_flash_internimage_nano.py"))
