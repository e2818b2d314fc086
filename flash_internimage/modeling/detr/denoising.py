"""Denoising queries: copies of the targets with noise, which a decoder learns to restore.

DN-DETR-like detectors share what is here: random noise on labels and boxes, and the queries with their attention mask. How many
copies a group has, and which of them are positive, is up to the detector.

Source: Li et al., "DN-DETR: Accelerate DETR Training by Introducing Query DeNoising", arXiv:2203.01305.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .box_ops import to_center_and_size, to_corners
from .targets import Match


class NoiseDraws(NamedTuple):
    """Random numbers for copies of boxes; "..." stands for any shape of copies.

    Attributes:
        label_uniform: (...) in 0..1; small values replace the label.
        new_labels: (...) classes, used where the label is replaced.
        box_sign: (..., 4), -1 or +1: the direction in which a box's edge (x1, y1, x2, y2) moves.
        box_uniform: (..., 4) in 0..1: how far it moves.
    """

    label_uniform: Tensor
    new_labels: Tensor
    box_sign: Tensor
    box_uniform: Tensor


def draw_noise(shape: Sequence[int], num_classes: int, like: Tensor) -> NoiseDraws:
    """Random numbers for copies of shape ``shape``, from torch's generator on ``like``'s device and in ``like``'s dtype."""
    copies, edges = tuple(shape), (*shape, 4)
    return NoiseDraws(
        label_uniform=torch.rand(copies, dtype=like.dtype, device=like.device),
        new_labels=torch.randint(num_classes, copies, device=like.device),
        box_sign=torch.randint(2, edges, dtype=like.dtype, device=like.device) * 2 - 1,
        box_uniform=torch.rand(edges, dtype=like.dtype, device=like.device),
    )


def noisy_labels(labels: Tensor, draws: NoiseDraws, scale: float) -> Tensor:
    """Replace labels with probability ``scale / 2`` by a random class, which may be the correct one."""
    return torch.where(draws.label_uniform < scale * 0.5, draws.new_labels, labels)


def noisy_boxes(boxes: Tensor, draws: NoiseDraws, scale: float) -> Tensor:
    """Move the edges of boxes and clip them to the image.

    Args:
        boxes: (..., 4) as (cx, cy, w, h), relative to the image.
        draws: ``box_uniform`` may exceed 1, which moves edges further.
        scale: 1 moves an edge by up to half the box's side where ``box_uniform`` is in 0..1.

    Returns:
        The same shape and format. Edges that move further than that may swap, which makes the side negative.
    """
    half_sides = torch.cat([boxes[..., 2:], boxes[..., 2:]], dim=-1) / 2
    corners = to_corners(boxes) + draws.box_sign * draws.box_uniform * half_sides * scale
    return to_center_and_size(corners.clamp(0, 1))


@dataclass(frozen=True)
class DenoisingQueries:
    """P denoising queries per image, in groups of equal size, one group after the other.

    Attributes:
        contents: (N, P, C) embedded labels; zeros in slots without a box.
        box_logits: (N, P, 4), (cx, cy, w, h) relative to the image, before the sigmoid; zeros in slots without a box.
        num_groups: number of groups.
        matches: for each image its positive queries and their targets.
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
        """Self-attention mask of the P denoising and Q = ``num_queries`` matching queries.

        Matching queries and other groups must not attend to a denoising group, which contains the ground truth. Every
        query attends to the matching queries.

        Returns:
            (P + Q, P + Q) bool, true where the query of the row must not attend to that of the column.
        """
        slot = torch.arange(self.count, device=self.contents.device)
        group_of = torch.cat([slot * self.num_groups // max(self.count, 1), slot.new_full((num_queries,), -1)])
        return (group_of[None, :] >= 0) & (group_of[None, :] != group_of[:, None])
