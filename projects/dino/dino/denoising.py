"""Contrastive denoising: queries made from noisy targets, which the decoder learns to restore or to reject.

Source: Zhang et al., "DINO", arXiv:2203.03605, section 3.3; Li et al., "DN-DETR", arXiv:2203.01305.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flash_internimage.modeling.detr.box_ops import inverse_sigmoid, to_center_and_size, to_corners
from flash_internimage.modeling.detr.targets import Match, Target


class NoiseDraws(NamedTuple):
    """The random numbers of one batch: N images, G groups, positives and negatives, M boxes in the fullest image.

    Attributes:
        label_uniform: (N, G, 2, M) in 0..1; small values have the label replaced.
        new_labels: (N, G, 2, M) classes, used where the label is replaced.
        box_sign: (N, G, 2, M, 4), -1 or +1: the direction in which a box's edge (x1, y1, x2, y2) moves.
        box_uniform: (N, G, 2, M, 4) in 0..1: how far it moves.
    """

    label_uniform: Tensor
    new_labels: Tensor
    box_sign: Tensor
    box_uniform: Tensor


def draw_noise(shape: Sequence[int], num_classes: int, like: Tensor) -> NoiseDraws:
    """Draw for (N, G, 2, M) copies of boxes from torch's generator on ``like``'s device, in ``like``'s dtype."""
    shape, options = tuple(shape), {"dtype": like.dtype, "device": like.device}
    return NoiseDraws(
        label_uniform=torch.rand(shape, **options),
        new_labels=torch.randint(num_classes, shape, device=like.device),
        box_sign=torch.randint(2, (*shape, 4), **options) * 2 - 1,
        box_uniform=torch.rand((*shape, 4), **options),
    )


def noisy_labels(labels: Tensor, draws: NoiseDraws, scale: float) -> Tensor:
    """Replace (N, G, 2, M) labels with probability ``scale / 2`` by any class, the right one included."""
    return torch.where(draws.label_uniform < scale * 0.5, draws.new_labels, labels)


def noisy_boxes(boxes: Tensor, draws: NoiseDraws, scale: float) -> Tensor:
    """Move the edges of boxes and clip them to the image.

    Args:
        boxes: (N, G, 2, M, 4) as (cx, cy, w, h), relative to the image.
        scale: 1 moves an edge of a positive copy ([:, :, 0]) by up to half the box's side, one of a negative copy
            ([:, :, 1]) by half to a whole side.

    Returns:
        The same shape and format. The edges of a negative may have changed places; its side is negative then.
    """
    distance = draws.box_uniform + boxes.new_tensor([0.0, 1.0])[:, None, None]
    half_sides = torch.cat([boxes[..., 2:], boxes[..., 2:]], dim=-1) / 2
    corners = to_corners(boxes) + draws.box_sign * distance * half_sides * scale
    return to_center_and_size(corners.clamp(0, 1))


@dataclass(frozen=True)
class DenoisingQueries:
    """P = G * 2 * M queries an image: group by group, positives then negatives, M slots each.

    Attributes:
        contents: (N, P, C) embedded labels; zeros in slots without a box.
        box_logits: (N, P, 4), (cx, cy, w, h) relative to the image, before the sigmoid; zeros in slots without a box.
        num_groups: G.
        matches: for each image its positives and their targets.
    """

    contents: Tensor
    box_logits: Tensor
    num_groups: int
    matches: list[Match]

    @property
    def count(self) -> int:
        """P."""
        return self.contents.shape[1]

    def attention_mask(self, num_queries: int) -> Tensor:
        """Who must not see whom among the P denoising and ``num_queries`` other queries: (P + Q, P + Q) bool, true = blocked.

        Nobody outside a group sees into it, for it shows the answers; the other queries are visible to all.
        """
        slot = torch.arange(self.count, device=self.contents.device)
        group_of = torch.cat([slot * self.num_groups // max(self.count, 1), slot.new_full((num_queries,), -1)])
        return (group_of[None, :] >= 0) & (group_of[None, :] != group_of[:, None])


class ContrastiveDenoising(nn.Module):
    """Makes the denoising queries of a batch."""

    def __init__(
        self,
        num_classes: int,
        embed_dim: int = 256,
        num_queries: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
    ) -> None:
        """
        Args:
            num_classes: K; the embedding has no row for an unknown class.
            num_queries: positives an image, about: there are as many groups as fit, at least one.
            label_noise: twice the probability of replacing a label.
            box_noise: 1 moves the edges of positives by up to half a side; see :func:`noisy_boxes`.
        """
        super().__init__()
        self.num_queries = num_queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.label_embedding = nn.Embedding(num_classes, embed_dim)

    def forward(self, targets: Sequence[Target]) -> DenoisingQueries:
        """One image a target. Without any box P is 0, and the embedding still is part of the graph (with zero gradient)."""
        labels = pad_sequence([target.labels for target in targets], batch_first=True)  # (N, M)
        boxes = pad_sequence([target.boxes for target in targets], batch_first=True)  # (N, M, 4)
        counts = torch.tensor([len(target.labels) for target in targets], device=labels.device)
        most = labels.shape[1]
        groups = max(self.num_queries // max(most, 1), 1)

        labels = labels[:, None, None].expand(-1, groups, 2, -1)  # (N, G, 2, M)
        boxes = boxes[:, None, None].expand(-1, groups, 2, -1, -1)
        draws = self.draw_noise(labels.shape, boxes)
        labels = noisy_labels(labels, draws, self.label_noise)
        if self.box_noise > 0:
            boxes = noisy_boxes(boxes, draws, self.box_noise)

        empty = torch.arange(most, device=labels.device) >= counts[:, None, None, None]  # (N, 1, 1, M)
        contents = self.label_embedding(labels).masked_fill(empty[..., None], 0.0)
        box_logits = inverse_sigmoid(boxes).masked_fill(empty[..., None], 0.0)
        return DenoisingQueries(
            contents.flatten(1, 3), box_logits.flatten(1, 3), groups, [_positives(t, groups, most) for t in targets]
        )

    def draw_noise(self, shape: Sequence[int], like: Tensor) -> NoiseDraws:
        """The random numbers for (N, G, 2, M) copies; all that is random here."""
        return draw_noise(shape, self.label_embedding.num_embeddings, like)


def _positives(target: Target, groups: int, most: int) -> Match:
    """The first len(target.labels) slots of every group."""
    device = target.labels.device
    box = torch.arange(len(target.labels), device=device)
    group = torch.arange(groups, device=device)
    return Match((group[:, None] * (2 * most) + box).flatten(), box.repeat(groups))
