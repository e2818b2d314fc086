"""Assigning ground truth to boxes by their overlap (intersection over union).

detectron2's ``Matcher`` also makes every box's best candidates positive, but without a least overlap, and leaves such a
candidate with the ground truth that *it* overlaps most. In the published models it goes to the ground truth whose best
candidate it is, so one candidate can change hands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flash_internimage.errors import UserError

IGNORED, NEGATIVE, POSITIVE = -1, 0, 1


def match_by_iou(overlaps: Tensor, positive: float, negative: float, low_quality: float | None = None) -> tuple[Tensor, Tensor]:
    """Assign one ground-truth box, or background, or nothing to each candidate.

    Args:
        overlaps: (M, R) overlap of M ground-truth boxes with R candidates.
        positive: a candidate is positive from this overlap with its best ground truth on.
        negative: and negative below this one; in between it is ignored.
        low_quality: every candidate that attains a ground truth's best overlap, if that is at least this, is positive
            and belongs to that ground truth; where several claim it, to the last. None for no such rule.

    Returns:
        (R,) int64 index of the ground truth (0 where there is none), and (R,) int8 label: 1 positive, 0 negative,
        -1 ignored.
    """
    num_targets, num_candidates = overlaps.shape
    matches = torch.zeros(num_candidates, dtype=torch.int64, device=overlaps.device)
    if num_targets == 0 or num_candidates == 0:
        return matches, torch.full_like(matches, NEGATIVE, dtype=torch.int8)

    best, matches = overlaps.max(dim=0)
    labels = torch.full_like(matches, IGNORED, dtype=torch.int8)
    labels[best < negative] = NEGATIVE
    labels[best >= positive] = POSITIVE
    if low_quality is not None:
        best_of_target = overlaps.max(dim=1, keepdim=True).values
        targets, candidates = ((overlaps == best_of_target) & (best_of_target >= low_quality)).nonzero(as_tuple=True)
        last_claim = torch.zeros_like(matches).scatter_reduce(0, candidates, targets + 1, "amax")
        claimed = last_claim > 0
        matches = torch.where(claimed, last_claim - 1, matches)
        labels[claimed] = POSITIVE
    return matches, labels


class IoUMatcher:
    """:func:`match_by_iou` with its thresholds; called as detectron2 calls a ``Matcher``.

    Args:
        positive: least overlap of a positive.
        negative: overlap below which a candidate is negative.
        low_quality: least overlap at which a ground truth claims its best candidates; None for no such claims.

    Raises:
        UserError: ``negative`` is above ``positive``.
    """

    def __init__(self, positive: float, negative: float, low_quality: float | None = None) -> None:
        if negative > positive:
            raise UserError(f"IoUMatcher: negative must not be above positive, got negative={negative}, positive={positive}")
        self.positive = positive
        self.negative = negative
        self.low_quality = low_quality

    def __call__(self, overlaps: Tensor) -> tuple[Tensor, Tensor]:
        return match_by_iou(overlaps, self.positive, self.negative, self.low_quality)
