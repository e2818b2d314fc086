"""Random sampling of the anchors and proposals that a loss is computed on.

Replaces detectron2's ``subsample_labels``, which draws the same sets but returns them in random order. Here the order is
that of the candidates, and all random choices go through :func:`choose`, which tests can replace.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .matcher import NEGATIVE, POSITIVE


def choose(candidates: Tensor, num: int) -> Tensor:
    """Sample up to ``num`` of the ``candidates`` (ascending indices) uniformly without replacement, in ascending order."""
    if len(candidates) <= num:
        return candidates
    chosen = torch.randperm(len(candidates), device=candidates.device)[:num]
    return candidates[chosen.sort().values]


def sample_labels(labels: Tensor, num: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Sample positives and negatives for a loss.

    Args:
        labels: (R,) 1 positive, 0 negative, -1 ignored.
        num: total number of samples, if there are enough.
        positive_fraction: maximum fraction of ``num`` that are positives; negatives fill the rest.

    Returns:
        Indices of the sampled positives and of the sampled negatives, each in ascending order.
    """
    positives = choose((labels == POSITIVE).nonzero().flatten(), int(num * positive_fraction))
    negatives = choose((labels == NEGATIVE).nonzero().flatten(), num - len(positives))
    return positives, negatives
