"""Choosing the anchors and proposals that a loss is computed on.

detectron2's ``subsample_labels`` draws the same sets but returns them in random order; here the order is that of the
candidates, and the draw is one function, so that it can be replaced in one place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .matcher import NEGATIVE, POSITIVE


def choose(candidates: Tensor, num: int) -> Tensor:
    """At most ``num`` of the ``candidates`` (ascending indices), uniformly without replacement, in ascending order."""
    if len(candidates) <= num:
        return candidates
    chosen = torch.randperm(len(candidates), device=candidates.device)[:num]
    return candidates[chosen.sort().values]


def sample_labels(labels: Tensor, num: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Choose positives and negatives for a loss.

    Args:
        labels: (R,) 1 positive, 0 negative, -1 ignored.
        num: how many to choose in all, if there are enough.
        positive_fraction: how much of ``num`` the positives may fill; negatives fill the rest.

    Returns:
        Indices of the chosen positives and of the chosen negatives, each ascending.
    """
    positives = choose((labels == POSITIVE).nonzero().flatten(), int(num * positive_fraction))
    negatives = choose((labels == NEGATIVE).nonzero().flatten(), num - len(positives))
    return positives, negatives
