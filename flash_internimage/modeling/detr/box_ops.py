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


def generalized_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised intersection over union, element by element.

    Leading dimensions broadcast: ``generalized_iou(a[:, None], b[None])`` compares all pairs. Neither fvcore's loss nor
    torchvision's serves both the matching costs (all pairs) and the loss (matched pairs) without adding eps to every
    union.

    Args:
        boxes1, boxes2: (..., 4) as (x1, y1, x2, y2), pixels.
        eps: least area of union and hull, square pixels; two boxes without area then score 0 instead of NaN.

    Returns:
        (...), in -1..1.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630.
    """
    intersection = _area(torch.maximum(boxes1[..., :2], boxes2[..., :2]), torch.minimum(boxes1[..., 2:], boxes2[..., 2:]))
    hull = _area(torch.minimum(boxes1[..., :2], boxes2[..., :2]), torch.maximum(boxes1[..., 2:], boxes2[..., 2:]))
    union = _area(boxes1[..., :2], boxes1[..., 2:]) + _area(boxes2[..., :2], boxes2[..., 2:]) - intersection
    union, hull = union.clamp(min=eps), hull.clamp(min=eps)
    return intersection / union - (hull - union) / hull


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Area between two corners; 0 where they are the wrong way round."""
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)
