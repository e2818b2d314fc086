"""Non-maximum suppression (NMS) within classes or pyramid levels, as in MMDetection."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

# Number of boxes from which each group is processed separately: the cost of NMS is quadratic in the number of boxes.
SPLIT_THRESHOLD = 10000


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Suppress boxes whose IoU with a higher-scoring box of the same group exceeds a threshold.

    torchvision's ``batched_nms`` and detectron2's wrapper give the same boxes up to rounding. This function keeps the dtype
    of the boxes, which detectron2 converts to float32, and switches between its two methods at the same number of boxes as
    MMDetection, so that rounding affects the same borderline cases.

    Args:
        boxes: (R, 4) XYXY boxes in absolute pixels, with non-negative coordinates.
        scores: (R,); among equal scores the earlier box has precedence.
        groups: (R,) non-negative integers, such as classes or pyramid levels.
        threshold: IoU above which the box with the lower score is suppressed.

    Returns:
        Indices of the remaining boxes, by descending score.
    """
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    # Shift the groups apart so that boxes of different groups do not intersect. MMDetection rounds the same way.
    boxes = boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]
    if len(boxes) < SPLIT_THRESHOLD:
        return nms(boxes, scores, threshold)
    kept = []
    for group in groups.unique():
        members = (groups == group).nonzero().flatten()
        kept.append(members[nms(boxes[members], scores[members], threshold)])
    keep = torch.cat(kept).sort().values
    return keep[scores[keep].argsort(descending=True, stable=True)]
