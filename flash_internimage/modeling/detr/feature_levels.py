"""Geometry of multi-scale feature maps that are flattened into one sequence of tokens, and of their padding.

A batch is padded to its largest image. For coordinates *relative to the image*, (1, 1) is the bottom-right corner of the image
without padding; for coordinates *relative to a level*, it is that of the padded feature map. The valid ratio of a level
converts the first into the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_internimage.layers.ms_deform_attn import shapes_tensor


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool -> (N, *size) by nearest-neighbor interpolation.

    Position i reads pixel floor(i * H / height), computed in integers so that all devices round equally.
    """
    rows = torch.arange(size[0], device=mask.device) * mask.shape[1] // size[0]
    columns = torch.arange(size[1], device=mask.device) * mask.shape[2] // size[1]
    return mask[:, rows][:, :, columns]


def valid_sizes(masks: Sequence[Tensor]) -> Tensor:
    """Size of the area without padding, in positions of each feature map.

    Args:
        masks: (N, H, W) bool for each level.

    Returns:
        (N, L, 2) integers as (columns, rows).
    """
    return torch.stack([torch.stack([(~m[:, 0]).sum(1), (~m[:, :, 0]).sum(1)], dim=-1) for m in masks], dim=1)


def valid_ratios(valid: Tensor, spatial_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """The fraction of each level that is not padding, (N, L, 2) as (x, y); ``valid`` is from :func:`valid_sizes`."""
    return valid.to(dtype) / shapes_tensor(spatial_shapes, dtype, valid.device).flip(-1)


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Feature maps (N, C, H, W), one per level -> tokens (N, S, C): level by level, row by row."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def token_centers(valid: Tensor, spatial_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """Centers of all tokens, relative to the image.

    Args:
        valid: (N, L, 2) from :func:`valid_sizes`.
        spatial_shapes: (height, width) of each level.

    Returns:
        (N, S, 2) as (x, y); greater than 1 in the padding.
    """
    centers = []
    for level, (height, width) in enumerate(spatial_shapes):
        y = torch.arange(height, dtype=dtype, device=valid.device) + 0.5
        x = torch.arange(width, dtype=dtype, device=valid.device) + 0.5
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)
        centers.append(grid / valid[:, None, level])
    return torch.cat(centers, dim=1)
