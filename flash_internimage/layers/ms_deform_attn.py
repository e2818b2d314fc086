"""Multi-scale deformable attention layer.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", arXiv:2010.04159, section 4.1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.ops.ms_deform_attn import ms_deform_attn

from .linear import Linear


def sampling_directions(num_heads: int) -> Tensor:
    """One direction per head, at equal angles: (num_heads, 2) as (x, y), scaled so that max(|x|, |y|) is 1."""
    angle = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return direction / direction.abs().amax(dim=-1, keepdim=True)


def sampling_locations(offsets: Tensor, reference_points: Tensor, spatial_shapes: Tensor) -> Tensor:
    """Compute normalized sampling locations from predicted offsets and reference points or boxes.

    Args:
        offsets: (N, Q, heads, L, points, 2) as (x, y): in pixels of the level for reference points; for reference boxes in
            units of (width, height) / (2 * points), so that an offset of ``points`` reaches the border of the box.
        reference_points: (N, Q, L, 2) points as (x, y), or (N, Q, L, 4) boxes as (cx, cy, w, h), normalized by the size of
            each level.
        spatial_shapes: (L, 2) as (height, width), in pixels of the feature maps.

    Returns:
        (N, Q, heads, L, points, 2) as (x, y); 0..1 inside the level.
    """
    num_points = offsets.shape[4]
    reference_points = reference_points[:, :, None, :, None, :]
    if reference_points.shape[-1] == 2:
        width_height = spatial_shapes.flip(-1)[None, None, None, :, None, :]
        return reference_points + offsets / width_height
    return reference_points[..., :2] + offsets / num_points * reference_points[..., 2:] * 0.5


def shapes_tensor(spatial_shapes: Sequence[tuple[int, int]] | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The (height, width) of each level as a tensor (L, 2)."""
    if isinstance(spatial_shapes, Tensor) or not any(
        isinstance(size, torch.SymInt) for shape in spatial_shapes for size in shape
    ):
        return torch.as_tensor(spatial_shapes, dtype=dtype, device=device)
    # torch.as_tensor would make constants of the symbolic sizes of an export with dynamic shapes.
    sizes = [torch.full((), size, dtype=dtype, device=device) for shape in spatial_shapes for size in shape]
    return torch.stack(sizes).unflatten(0, (-1, 2))


class MSDeformAttn(nn.Module):
    """Attention in which each query reads a few points per feature level, at locations predicted from the query."""

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4):
        """
        Args:
            embed_dim: channels of the queries, the values and the output.
            num_heads: number of heads; each has embed_dim / num_heads channels and its own sampling points.
            num_levels: number of feature levels that a query reads.
            num_points: sampling points per head and level.

        Raises:
            UserError: embed_dim is not divisible by num_heads.
        """
        super().__init__()
        if embed_dim % num_heads != 0:
            raise UserError(f"MSDeformAttn: embed_dim must be divisible by num_heads, got {embed_dim} and {num_heads}")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling_offsets = Linear(embed_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(embed_dim, num_heads * num_levels * num_points)
        self.value_proj = Linear(embed_dim, embed_dim)
        self.output_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize every query to read, with equal weights, the points 1, 2, ... pixels along the direction of each head."""
        nn.init.zeros_(self.sampling_offsets.weight)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = sampling_directions(self.num_heads)[:, None, None, :] * steps[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}, num_levels={self.num_levels}, num_points={self.num_points}"

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]] | Tensor,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: (N, Q, embed_dim), position encoding included; predicts the sampling locations and their weights.
            value: (N, S, embed_dim), all levels concatenated; S is the sum of height * width.
            reference_points: (N, Q, L, 2) as (x, y), or (N, Q, L, 4) boxes as (cx, cy, w, h), normalized by the size of
                each level with its padding: (0, 0) is the top-left corner, (1, 1) the bottom-right corner.
            spatial_shapes: (height, width) of each level. A tensor, unlike integers, synchronizes a GPU.
            key_padding_mask: (N, S) bool, true at padding, where values are set to zero.

        Returns:
            (N, Q, embed_dim).

        Raises:
            UserError: an argument has the wrong shape.
        """
        self._check(query, value, reference_points, spatial_shapes, key_padding_mask)
        batch, num_queries = query.shape[:2]
        heads, levels, points = self.num_heads, self.num_levels, self.num_points

        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = value.view(batch, -1, heads, self.embed_dim // heads)

        offsets = self.sampling_offsets(query).view(batch, num_queries, heads, levels, points, 2)
        weights = self.attention_weights(query).view(batch, num_queries, heads, levels * points)
        weights = weights.softmax(dim=-1).view(batch, num_queries, heads, levels, points)

        # bfloat16 has 8 significant bits: in a row of 300 pixels a location would be off by one. Dividing the offsets by
        # float32 shapes promotes them.
        shapes_dtype = torch.promote_types(reference_points.dtype, torch.float32)
        shapes = shapes_tensor(spatial_shapes, shapes_dtype, query.device)
        locations = sampling_locations(offsets, reference_points, shapes)

        return self.output_proj(ms_deform_attn(value, spatial_shapes, locations, weights))

    def _check(
        self,
        query: Tensor,
        value: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]] | Tensor,
        key_padding_mask: Tensor | None,
    ) -> None:
        for name, tokens in (("query", query), ("value", value)):
            if tokens.dim() != 3 or tokens.shape[2] != self.embed_dim:
                raise UserError(
                    f"MSDeformAttn: {name} must be (batch, tokens, {self.embed_dim}), got shape {tuple(tokens.shape)}"
                )
        if len(spatial_shapes) != self.num_levels:
            raise UserError(
                f"MSDeformAttn: spatial_shapes must have {self.num_levels} levels as (height, width), got {spatial_shapes}"
            )
        expected = (*query.shape[:2], self.num_levels)
        if reference_points.shape[:-1] != expected or reference_points.shape[-1] not in (2, 4):
            raise UserError(
                f"MSDeformAttn: reference_points must be {(*expected, 2)} or {(*expected, 4)}, "
                f"got shape {tuple(reference_points.shape)}"
            )
        if key_padding_mask is not None and key_padding_mask.shape != value.shape[:2]:
            raise UserError(
                f"MSDeformAttn: key_padding_mask must be {tuple(value.shape[:2])} like value, "
                f"got shape {tuple(key_padding_mask.shape)}"
            )
