"""Hungarian matching of queries and targets.

Source: Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872; focal cost from Deformable DETR.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from flash_internimage.structures.boxes import generalized_iou

from .box_ops import to_corners
from .targets import Match, Target


def focal_cost(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0, eps: float = 1e-12) -> Tensor:
    """Change of the focal loss of each query if it were assigned to each target.

    Args:
        logits: (Q, K).
        labels: (n,) classes of the targets.
        eps: added to probabilities before the logarithm.

    Returns:
        (Q, n).
    """
    probability = logits.sigmoid()
    if_positive = -(probability + eps).log() * alpha * (1 - probability) ** gamma
    if_negative = -(1 - probability + eps).log() * (1 - alpha) * probability**gamma
    return (if_positive - if_negative)[:, labels]


class HungarianMatcher(nn.Module):
    """Assigns one query to every target so that the sum of the costs is minimal."""

    def __init__(
        self,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        """
        Args:
            class_cost: weight of the change of the focal loss.
            l1_cost: weight of the L1 distance of (cx, cy, w, h), relative to the image.
            giou_cost: weight of the negative generalized IoU, computed in pixels.
        """
        super().__init__()
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def cost(self, logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
        """(Q, K) logits and (Q, 4) boxes of one image -> (Q, n) costs of all pairs."""
        classes = focal_cost(logits.to(boxes.dtype), target.labels, self.focal_alpha, self.focal_gamma)
        l1 = (boxes[:, None] - target.boxes[None]).abs().sum(dim=-1)
        giou = generalized_iou((to_corners(boxes) * target.scale)[:, None], (to_corners(target.boxes) * target.scale)[None])
        return self.class_cost * classes + self.l1_cost * l1 - self.giou_cost * giou

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes: Tensor, targets: Sequence[Target]) -> list[Match]:
        """Match the queries of each image of a batch.

        Args:
            logits: (N, Q, K).
            boxes: (N, Q, 4) as (cx, cy, w, h), relative to the image.
            targets: one per image.

        Returns:
            One match of min(Q, n) pairs per image.
        """
        costs = [self.cost(*image) for image in zip(logits, boxes, targets, strict=True)]
        return [_assign(cost) for cost in costs]


def _assign(cost: Tensor) -> Match:
    # scipy refuses NaN. The trainer stops a diverged model with a better message, when it checks the losses.
    matrix = torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6).double().cpu().numpy()
    queries, targets = linear_sum_assignment(matrix)
    return Match(torch.from_numpy(queries).to(cost.device), torch.from_numpy(targets).to(cost.device))
