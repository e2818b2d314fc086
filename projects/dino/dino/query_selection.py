"""Two-stage query selection: the encoder tokens with the highest scores give the initial boxes of the decoder.

Source: Zhang et al., "DINO", arXiv:2203.03605, section 3.4 (mixed query selection).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Selection(NamedTuple):
    """The selected tokens, in descending order of scores.

    Attributes:
        indices: (N, Q) indices of the tokens.
        logits: (N, Q, K) class scores before the sigmoid.
        boxes: (N, Q, 4) as (cx, cy, w, h), relative to the image; attached to the graph, for the selection's own losses.
    """

    indices: Tensor
    logits: Tensor
    boxes: Tensor


def token_boxes(centers: Tensor, spatial_shapes: Sequence[tuple[int, int]], side: float = 0.05) -> Tensor:
    """The initial box of each token, a square that its prediction refines.

    Args:
        centers: (N, S, 2) as (x, y), relative to the image.
        side: side of the boxes of the finest level, relative to the image; it doubles with every level.

    Returns:
        (N, S, 4) as (cx, cy, w, h).
    """
    levels = [centers.new_full((height * width,), side * 2.0**level) for level, (height, width) in enumerate(spatial_shapes)]
    sizes = torch.cat(levels)[None, :, None].expand(centers.shape[0], -1, 2)
    return torch.cat([centers, sizes], dim=-1)


class QuerySelection(nn.Module):
    """Scores every token of the memory and keeps those with the highest scores."""

    def __init__(self, num_queries: int = 900, embed_dim: int = 256, border: float = 0.01) -> None:
        """
        Args:
            num_queries: number of tokens to keep.
            border: a token whose initial box has a coordinate or side closer than this to 0 or 1 is masked.
        """
        super().__init__()
        self.num_queries = num_queries
        self.border = border
        self.projection = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(
        self,
        memory: Tensor,
        padding_mask: Tensor,
        centers: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        class_head: nn.Module,
        box_head: nn.Module,
    ) -> Selection:
        """Select tokens, and predict their classes and boxes.

        Args:
            memory: (N, S, C) from the encoder.
            padding_mask: (N, S) bool, true where a token is padding.
            centers: (N, S, 2) as (x, y), relative to the image.
            spatial_shapes: (height, width) of each level.
            class_head: (N, S, C) -> (N, S, K) logits.
            box_head: (N, Q, C) -> (N, Q, 4) corrections of the tokens' boxes, before the sigmoid.

        Returns:
            The ``num_queries`` tokens of each image with the highest scores, or all tokens if there are fewer.
        """
        boxes = token_boxes(centers, spatial_shapes)
        inside = ((boxes > self.border) & (boxes < 1 - self.border)).all(dim=-1)
        masked = (padding_mask | ~inside)[..., None]

        # As published, masked tokens can still be selected: a memory of zeros gives all of them the same score, and an
        # infinite logit gives them the box (1, 1, 1, 1), without a gradient.
        box_logits = torch.logit(boxes.masked_fill(masked, 0.5)).masked_fill(masked, float("inf"))
        tokens = self.norm(self.projection(memory.masked_fill(masked, 0.0)))

        logits = class_head(tokens)
        indices = self.rank(logits.detach())
        corrections = box_head(take(tokens, indices))
        return Selection(indices, take(logits, indices), (corrections + take(box_logits, indices)).sigmoid())

    def rank(self, logits: Tensor) -> Tensor:
        """(N, S, K) -> (N, Q): the tokens with the largest logits of any class, largest first."""
        scores = logits.amax(dim=-1)
        # A comparison instead of min(): min() of a symbolic size would be part of all sizes of an exported decoder.
        count = self.num_queries if scores.shape[1] >= self.num_queries else scores.shape[1]
        return scores.topk(count, dim=1).indices


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """(N, S, C) and (N, Q) -> (N, Q, C)."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
