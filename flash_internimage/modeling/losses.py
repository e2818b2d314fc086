"""Losses on boxes."""

from __future__ import annotations

import torch
from torch import Tensor


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """One minus the generalized intersection over union of paired boxes.

    Rezatofighi et al., "Generalized Intersection over Union", 2019. Areas below 1e-6 square pixels count as that much.
    (The one in fvcore adds a constant to every area, and fails an assertion on NaN where a loss of NaN would say more.)

    Args:
        boxes, targets: (R, 4) XYXY boxes in absolute pixels.

    Returns:
        (R,) between 0 and 2.
    """
    top_left = torch.maximum(boxes[:, :2], targets[:, :2])
    bottom_right = torch.minimum(boxes[:, 2:], targets[:, 2:])
    intersection = _area((bottom_right - top_left).clamp(min=0))
    union = (_area(boxes[:, 2:] - boxes[:, :2]) + _area(targets[:, 2:] - targets[:, :2]) - intersection).clamp(min=1e-6)
    outer_top_left = torch.minimum(boxes[:, :2], targets[:, :2])
    outer_bottom_right = torch.maximum(boxes[:, 2:], targets[:, 2:])
    enclosure = _area(outer_bottom_right - outer_top_left).clamp(min=1e-6)
    return 1 - intersection / union + (enclosure - union) / enclosure


def _area(sizes: Tensor) -> Tensor:
    # Not prod(), whose gradient takes a slow path where a side is zero.
    return sizes[:, 0] * sizes[:, 1]
