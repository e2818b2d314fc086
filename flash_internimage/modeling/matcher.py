"""Matching of anchors and proposals to ground-truth boxes by IoU, as MMDetection's ``MaxIoUAssigner`` does."""

from __future__ import annotations

import torch
from torch import Tensor

from flash_internimage.errors import UserError

IGNORED, NEGATIVE, POSITIVE = -1, 0, 1


def match_by_iou(ious: Tensor, positive: float, negative: float, low_quality: float | None = None) -> tuple[Tensor, Tensor]:
    """Match each candidate box to a ground-truth box, or label it as background or ignored.

    Args:
        ious: (M, R) IoU of M ground-truth boxes with R candidates.
        positive: a candidate whose highest IoU is at least this is positive.
        negative: a candidate whose highest IoU is below this is negative. Candidates in between are ignored.
        low_quality: a ground-truth box whose highest IoU is at least this claims all candidates with that IoU: they become
            positive and are matched to it. If several ground-truth boxes claim a candidate, the last one gets it. None
            disables such matches.

    Returns:
        (R,) int64 index of the matched ground-truth box (0 if there are no ground-truth boxes), and (R,) int8 label:
        1 positive, 0 negative, -1 ignored.
    """
    num_targets, num_candidates = ious.shape
    matches = torch.zeros(num_candidates, dtype=torch.int64, device=ious.device)
    if num_targets == 0 or num_candidates == 0:
        return matches, torch.full_like(matches, NEGATIVE, dtype=torch.int8)

    best, matches = ious.max(dim=0)
    labels = torch.full_like(matches, IGNORED, dtype=torch.int8)
    labels[best < negative] = NEGATIVE
    labels[best >= positive] = POSITIVE
    if low_quality is not None:
        best_of_target = ious.max(dim=1, keepdim=True).values
        targets, candidates = ((ious == best_of_target) & (best_of_target >= low_quality)).nonzero(as_tuple=True)
        last_claim = torch.zeros_like(matches).scatter_reduce(0, candidates, targets + 1, "amax")
        claimed = last_claim > 0
        matches = torch.where(claimed, last_claim - 1, matches)
        labels[claimed] = POSITIVE
    return matches, labels


class IoUMatcher:
    """Callable that applies :func:`match_by_iou` with fixed thresholds.

    Replaces detectron2's ``Matcher`` and is called like it. The two differ in low-quality matches: detectron2 has no
    minimum IoU for them and keeps a claimed candidate matched to the ground-truth box of *its* highest IoU, while
    MMDetection matches the candidate to the ground-truth box that claims it.

    Args:
        positive: minimum IoU of a positive.
        negative: IoU below which a candidate is negative.
        low_quality: minimum IoU at which a ground-truth box claims its best candidates; None disables such matches.

    Raises:
        UserError: ``negative`` is greater than ``positive``.
    """

    def __init__(self, positive: float, negative: float, low_quality: float | None = None) -> None:
        if negative > positive:
            raise UserError(f"IoUMatcher: negative must not be above positive, got negative={negative}, positive={positive}")
        self.positive = positive
        self.negative = negative
        self.low_quality = low_quality

    def __call__(self, ious: Tensor) -> tuple[Tensor, Tensor]:
        return match_by_iou(ious, self.positive, self.negative, self.low_quality)
