"""Non-maximum suppression within classes or pyramid levels.

torchvision's ``batched_nms`` and detectron2's wrapper of it give the same boxes up to rounding. This one keeps the
boxes' dtype (detectron2 rounds to float32) and changes method at the number of candidates at which the published models
do, so that rounding decides the same cases.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

# From here on one group after the other, because the work grows with the square of what is compared at once.
ONE_BY_ONE_FROM = 10000


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Drop boxes that overlap a better one of the same group.

    Args:
        boxes: (R, 4) XYXY in absolute pixels, of no negative coordinates.
        scores: (R,); of equal scores the earlier is the better.
        groups: (R,) non-negative integers, such as classes.
        threshold: intersection over union above which the lesser box goes.

    Returns:
        Indices of the remaining boxes, best first.
    """
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    # Groups are moved apart so that none meets another. The slight rounding of moved boxes is the original's.
    boxes = boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]
    if len(boxes) < ONE_BY_ONE_FROM:
        return nms(boxes, scores, threshold)
    kept = []
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        kept.append(members[nms(boxes[members], scores[members], threshold)])
    keep = torch.cat(kept).sort().values
    return keep[scores[keep].argsort(descending=True, stable=True)]
