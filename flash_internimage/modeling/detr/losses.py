"""The three losses of a set of predictions after matching: focal, L1 and generalized IoU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from flash_internimage.structures.boxes import generalized_iou

from .box_ops import to_corners
from .targets import Match, Target


class SetLosses(NamedTuple):
    """Scalars, summed over queries and divided by the normalizer.

    Attributes:
        classes: focal loss over all queries; a query without a target is negative for every class.
        boxes: L1 loss of (cx, cy, w, h) relative to the image, matched queries only.
        iou: 1 - generalized IoU in pixels, matched queries only.
    """

    classes: Tensor
    boxes: Tensor
    iou: Tensor


def set_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[Target],
    matches: Sequence[Match],
    normalizer: Tensor,
    focal_alpha: float = 0.25,
    focal_gamma: float = 2.0,
) -> SetLosses:
    """The losses of all queries of a batch.

    Args:
        logits: (N, Q, K).
        boxes: (N, Q, 4) as (cx, cy, w, h), relative to the image.
        targets, matches: one per image.
        normalizer: scalar, usually the number of matched pairs.
    """
    # Under autocast the logits may be in half precision; the boxes have the dtype in which to compute the losses.
    logits = logits.to(boxes.dtype)
    image = torch.cat([torch.full_like(match.queries, i) for i, match in enumerate(matches)])
    query = torch.cat([match.queries for match in matches])
    labels = torch.cat([target.labels[match.targets] for target, match in zip(targets, matches, strict=True)])
    wanted = torch.cat([target.boxes[match.targets] for target, match in zip(targets, matches, strict=True)])
    matched, scale = boxes[image, query], torch.stack([target.scale for target in targets])[image]

    is_class = torch.zeros_like(logits)
    is_class[image, query, labels] = 1.0
    focal = sigmoid_focal_loss(logits, is_class, focal_alpha, focal_gamma, reduction="sum")
    l1 = F.l1_loss(matched, wanted, reduction="sum")
    giou = (1 - generalized_iou(to_corners(matched) * scale, to_corners(wanted) * scale)).sum()
    return SetLosses(focal / normalizer, l1 / normalizer, giou / normalizer)
