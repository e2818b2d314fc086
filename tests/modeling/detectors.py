"""Small two-stage detectors and batches for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

CONFIGS = Path(__file__).parents[2] / "configs" / "common" / "models"
FAMILIES = ["mask_rcnn_fpn", "cascade_mask_rcnn_fpn"]


def shrink(model: Any) -> Any:
    """Reduce a model config to a backbone and heads that run in milliseconds."""
    model.backbone.bottom_up.update(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], with_cp=False)
    model.backbone.out_channels = 16
    heads = model.roi_heads
    for head in heads.get("box_heads", [heads.get("box_head")]):
        head.update(conv_dims=[16] * len(head.conv_dims), fc_dims=[32] * len(head.fc_dims))
    for head in heads.get("mask_heads", [heads.get("mask_head")]):
        head.conv_dims = [16, 16]
    return model


def build(family: str) -> nn.Module:
    return instantiate(shrink(LazyConfig.load(str(CONFIGS / f"{family}.py")).model))


def targets(size: tuple[int, int], boxes: list[list[float]]) -> list[Instances]:
    """Ground truth of one image: XYXY boxes with masks that fill them; the classes are 0, 1, 2, ..."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return [
        Instances(
            size,
            gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
            gt_classes=torch.arange(len(boxes)),
            gt_masks=BitMasks(masks),
        )
    ]


def image(size: tuple[int, int], boxes: list[list[float]]) -> dict[str, Any]:
    """One random image with ground truth, in detectron2's input format."""
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return {"image": pixels, "height": size[0], "width": size[1], "instances": targets(size, boxes)[0]}
