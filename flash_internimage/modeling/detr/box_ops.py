"""Boxes in the three spaces that a DETR-like detector moves between: corners, center and size, and logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) boxes as (cx, cy, w, h) -> (x1, y1, x2, y2), in the same unit."""
    return box_convert(boxes, "cxcywh", "xyxy")


def to_center_and_size(boxes: Tensor) -> Tensor:
    """(..., 4) boxes as (x1, y1, x2, y2) -> (cx, cy, w, h), in the same unit."""
    return box_convert(boxes, "xyxy", "cxcywh")


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """The logit of ``x`` in 0..1, finite everywhere.

    Args:
        eps: both ``x`` and ``1 - x`` count as at least this much, which keeps a box at the border within reach of the
            next layer's correction: |logit| <= log(1 / eps).
    """
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
