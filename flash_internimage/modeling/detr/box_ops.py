"""Conversions between the three representations of boxes in DETR-like detectors: corners, center and size, and logits."""

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
    """The logit of ``x`` in 0..1, clamped so that it is finite.

    Args:
        eps: lower bound of ``x`` and ``1 - x``. It bounds the result, |logit| <= log(1 / eps), so that the next layer can
            still correct a box at the border of the image.
    """
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
