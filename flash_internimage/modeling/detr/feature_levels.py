"""Geometry of several feature levels laid out as one row of tokens, and of the padding in them.

A batch is padded to its largest image. Where a box or point is *relative to the image*, (1, 1) is the image's own
bottom-right corner; *relative to a level*, it is the padded map's. The valid ratio of a level leads from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padding_mask(image_sizes: Sequence[tuple[int, int]], padded_size: tuple[int, int], device: torch.device) -> Tensor:
    """(N, H, W) bool, true beyond each image's own (height, width); ``padded_size`` is (H, W), all in pixels."""
    sizes = torch.tensor([(int(height), int(width)) for height, width in image_sizes], device=device)
    rows = torch.arange(padded_size[0], device=device)
    columns = torch.arange(padded_size[1], device=device)
    return (rows[None, :, None] >= sizes[:, :1, None]) | (columns[None, None, :] >= sizes[:, 1:, None])


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, H, W) bool -> (N, *size) by nearest neighbor: cell i reads pixel floor(i * H / height), in whole numbers, so
    that no device rounds it differently."""
    rows = torch.arange(size[0], device=mask.device) * mask.shape[1] // size[0]
    columns = torch.arange(size[1], device=mask.device) * mask.shape[2] // size[1]
    return mask[:, rows][:, :, columns]


def valid_sizes(masks: Sequence[Tensor]) -> Tensor:
    """Cells that are not padding, along each axis.

    Args:
        masks: (N, H, W) bool for each level.

    Returns:
        (N, L, 2) integers as (columns, rows).
    """
    return torch.stack([torch.stack([(~m[:, 0]).sum(1), (~m[:, :, 0]).sum(1)], dim=-1) for m in masks], dim=1)


def valid_ratios(valid: Tensor, spatial_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """The share of each level that is not padding: (N, L, 2) as (x, y), from :func:`valid_sizes`."""
    return valid.to(dtype) / torch.tensor(spatial_shapes, dtype=dtype, device=valid.device).flip(-1)


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Maps (N, C, H, W), one a level -> tokens (N, S, C): level by level, row by row."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def cell_centers(valid: Tensor, spatial_shapes: Sequence[tuple[int, int]], dtype: torch.dtype) -> Tensor:
    """Centers of all cells, relative to the image.

    Args:
        valid: (N, L, 2) from :func:`valid_sizes`.
        spatial_shapes: (height, width) of each level.

    Returns:
        (N, S, 2) as (x, y); beyond 1 in the padding.
    """
    centers = []
    for level, (height, width) in enumerate(spatial_shapes):
        y = torch.arange(height, dtype=dtype, device=valid.device) + 0.5
        x = torch.arange(width, dtype=dtype, device=valid.device) + 0.5
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)
        centers.append(grid / valid[:, None, level])
    return torch.cat(centers, dim=1)
