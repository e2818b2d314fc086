"""Deformable transformer encoder: every token attends to a few sampling points on each level.

Source: Zhu et al., "Deformable DETR", arXiv:2010.04159.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from flash_internimage.layers import MSDeformAttn

from .mlp import mlp


class EncoderLayer(nn.Module):
    """Deformable self-attention and a two-layer MLP, each with a residual connection and a layer norm after it."""

    def __init__(
        self, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4, ffn_dim: int = 2048
    ) -> None:
        super().__init__()
        self.self_attn = MSDeformAttn(embed_dim, num_heads, num_levels, num_points)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.feed_forward = mlp(embed_dim, ffn_dim, embed_dim, num_layers=2)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        padding_mask: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """(N, S, C) -> (N, S, C); see :meth:`Encoder.forward` for the arguments."""
        attended = self.self_attn(tokens + positions, tokens, reference_points, spatial_shapes, padding_mask)
        tokens = self.norm1(tokens + attended)
        return self.norm2(tokens + self.feed_forward(tokens))


class Encoder(nn.Module):
    """A stack of :class:`EncoderLayer`, without a final norm."""

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
        self.layers = nn.ModuleList(
            EncoderLayer(embed_dim, num_heads, num_levels, num_points, ffn_dim) for _ in range(num_layers)
        )

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        padding_mask: Tensor,
        centers: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        valid_ratios: Tensor,
    ) -> Tensor:
        """
        Args:
            tokens: (N, S, C) features of all levels.
            positions: (N, S, C) position embeddings, added to the queries but not to the values.
            padding_mask: (N, S) bool, true where a token is padding. No token attends to it, but it attends to others.
            centers: (N, S, 2) centers of the tokens as (x, y), relative to the image.
            spatial_shapes: (height, width) of each of the L levels.
            valid_ratios: (N, L, 2) as (x, y).

        Returns:
            The memory, (N, S, C).
        """
        reference_points = centers[:, :, None] * valid_ratios[:, None]  # (N, S, L, 2)
        for layer in self.layers:
            tokens = layer(tokens, positions, padding_mask, reference_points, spatial_shapes)
        return tokens
