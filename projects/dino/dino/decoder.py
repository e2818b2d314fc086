"""Deformable transformer decoder with box refinement in every layer.

Source: Zhang et al., "DINO", arXiv:2203.03605; conditional queries from Liu et al., "DAB-DETR", arXiv:2201.12329.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flash_internimage.layers import MSDeformAttn
from flash_internimage.modeling.detr.box_ops import inverse_sigmoid
from flash_internimage.modeling.detr.mlp import mlp
from flash_internimage.modeling.detr.position_encoding import encode_boxes


class DecoderOutput(NamedTuple):
    """The outputs of the layers of a decoder.

    Attributes:
        states: one (N, Q, C) per layer, after the decoder's norm.
        references: boxes (N, Q, 4) as (cx, cy, w, h), relative to the image: the initial ones, then the refined ones of
            each layer. They are attached to the graph of their layer; the next layer reads them detached.
    """

    states: list[Tensor]
    references: list[Tensor]


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention and an MLP, each with a residual connection and a layer norm after it."""

    def __init__(
        self, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4, ffn_dim: int = 2048
    ) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.cross_attn = MSDeformAttn(embed_dim, num_heads, num_levels, num_points)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.feed_forward = mlp(embed_dim, ffn_dim, embed_dim, num_layers=2)
        self.norm3 = nn.LayerNorm(embed_dim)
        nn.init.xavier_uniform_(self.self_attn.out_proj.weight)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        level_boxes: Tensor,
        memory: Tensor,
        padding_mask: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: (N, Q, C).
            positions: (N, Q, C) position embeddings.
            level_boxes: (N, Q, L, 4) as (cx, cy, w, h), relative to each level.
            memory, padding_mask, spatial_shapes, attention_mask: as in :meth:`Decoder.forward`.

        Returns:
            (N, Q, C).
        """
        placed = queries + positions
        attended, _ = self.self_attn(placed, placed, queries, attn_mask=attention_mask, need_weights=False)
        queries = self.norm1(queries + attended)
        attended = self.cross_attn(queries + positions, memory, level_boxes, spatial_shapes, padding_mask)
        queries = self.norm2(queries + attended)
        return self.norm3(queries + self.feed_forward(queries))


class Decoder(nn.Module):
    """A stack of :class:`DecoderLayer` with box refinement between them."""

    def __init__(
        self,
        num_layers: int = 6,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 2048,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.layers = nn.ModuleList(
            DecoderLayer(embed_dim, num_heads, num_levels, num_points, ffn_dim) for _ in range(num_layers)
        )
        self.position_head = mlp(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self,
        queries: Tensor,
        boxes: Tensor,
        memory: Tensor,
        padding_mask: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        valid_ratios: Tensor,
        box_heads: Sequence[nn.Module],
        attention_mask: Tensor | None = None,
    ) -> DecoderOutput:
        """Update queries and boxes with all layers.

        Args:
            queries: (N, Q, C) contents.
            boxes: (N, Q, 4) as (cx, cy, w, h), relative to the image.
            memory: (N, S, C) from the encoder.
            padding_mask: (N, S) bool, true where a token of the memory is padding.
            spatial_shapes: (height, width) of each of the L levels.
            valid_ratios: (N, L, 2) as (x, y).
            box_heads: one per layer: (N, Q, C) -> (N, Q, 4) corrections before the sigmoid.
            attention_mask: (Q, Q) bool, true where the query of the row must not attend to that of the column.
        """
        to_levels = torch.cat([valid_ratios, valid_ratios], dim=-1)[:, None]  # (N, 1, L, 4)
        states, references = [], [boxes]
        for layer, box_head in zip(self.layers, box_heads, strict=True):
            level_boxes = boxes[:, :, None] * to_levels  # (N, Q, L, 4)
            # As published, the position is relative to the first level, so it depends on the padding of the batch.
            positions = self.position_head(encode_boxes(level_boxes[:, :, 0], self.embed_dim // 2))
            queries = layer(queries, positions, level_boxes, memory, padding_mask, spatial_shapes, attention_mask)
            refined = (box_head(queries) + inverse_sigmoid(boxes)).sigmoid()
            states.append(self.norm(queries))
            references.append(refined)
            boxes = refined.detach()
        return DecoderOutput(states, references)
