"""Contrastive denoising: each noisy copy of a target comes as a positive, to be restored, and a negative, to be rejected.

Source: Zhang et al., "DINO", arXiv:2203.03605, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from flash_internimage.modeling.detr.box_ops import inverse_sigmoid
from flash_internimage.modeling.detr.denoising import DenoisingQueries, NoiseDraws, draw_noise, noisy_boxes, noisy_labels
from flash_internimage.modeling.detr.targets import Match, Target


def contrastive_noise(draws: NoiseDraws) -> NoiseDraws:
    """Draws for (N, G, 2, M) copies, with the edges of the negatives ([:, :, 1]) moved half a side further."""
    further = draws.box_uniform.new_tensor([0.0, 1.0])[:, None, None]
    return draws._replace(box_uniform=draws.box_uniform + further)


class ContrastiveDenoising(nn.Module):
    """Makes the denoising queries of a batch: G groups, each with M positives and M negatives.

    M is the number of boxes in the image that has the most.
    """

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
            num_queries: approximate number of positives per image: G is as many groups as fit, but at least one.
            label_noise: twice the probability of replacing a label.
            box_noise: 1 moves the edges of positives by up to half a side, those of negatives by half to a whole side.
        """
        super().__init__()
        self.num_queries = num_queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.label_embedding = nn.Embedding(num_classes, embed_dim)

    def forward(self, targets: Sequence[Target]) -> DenoisingQueries:
        """Denoising queries for the targets of a batch, one target per image.

        Without any box there are no queries, but the embedding is still part of the graph, with zero gradient.
        """
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
            boxes = noisy_boxes(boxes, contrastive_noise(draws), self.box_noise)

        empty = torch.arange(most, device=labels.device) >= counts[:, None, None, None]  # (N, 1, 1, M)
        contents = self.label_embedding(labels).masked_fill(empty[..., None], 0.0)
        box_logits = inverse_sigmoid(boxes).masked_fill(empty[..., None], 0.0)
        return DenoisingQueries(
            contents.flatten(1, 3), box_logits.flatten(1, 3), groups, [_positives(t, groups, most) for t in targets]
        )

    def draw_noise(self, shape: Sequence[int], like: Tensor) -> NoiseDraws:
        """The random numbers for (N, G, 2, M) copies; everything random in this module."""
        return draw_noise(shape, self.label_embedding.num_embeddings, like)


def _positives(target: Target, groups: int, most: int) -> Match:
    """The first len(target.labels) slots of every group."""
    device = target.labels.device
    box = torch.arange(len(target.labels), device=device)
    group = torch.arange(groups, device=device)
    return Match((group[:, None] * (2 * most) + box).flatten(), box.repeat(groups))
