"""Anchors of a feature pyramid, and which of their cells show an image rather than a batch's padding.

detectron2's ``DefaultAnchorGenerator`` places the same anchors but holds them in float32, and cannot tell the padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.structures.boxes import PreciseBoxes


def cell_anchors(sizes: Tensor, aspect_ratios: Tensor) -> Tensor:
    """Boxes centered on the origin.

    Args:
        sizes: (S,) square roots of the areas, in pixels.
        aspect_ratios: (A,) heights divided by widths.

    Returns:
        (S * A, 4) XYXY boxes, ratios innermost.
    """
    height_factors = aspect_ratios.sqrt()
    widths = (sizes[:, None] / height_factors).flatten()
    heights = (sizes[:, None] * height_factors).flatten()
    return torch.stack([-widths, -heights, widths, heights], dim=1) * 0.5


def grid_anchors(cell: Tensor, grid_size: Sequence[int], stride: int) -> Tensor:
    """Repeat the anchors of one cell over a map, each cell's anchors around its top left corner.

    Args:
        cell: (A, 4) XYXY boxes around the origin.
        grid_size: (rows, columns) of the map.
        stride: distance between cells, in pixels.

    Returns:
        (rows * columns * A, 4), row by row, anchors of a cell together.
    """
    rows, columns = grid_size
    y = torch.arange(rows, dtype=cell.dtype, device=cell.device) * stride
    x = torch.arange(columns, dtype=cell.dtype, device=cell.device) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + cell).reshape(-1, 4)


def cells_within(grid_size: Sequence[int], stride: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Which cells of a map have their top left corner within an area that starts at the map's.

    Args:
        grid_size: (rows, columns) of the map.
        stride: distance between cells, in pixels.
        size: (height, width) of the area, in pixels.

    Returns:
        (rows * columns,) boolean, row by row.
    """
    rows = torch.arange(grid_size[0], device=device) * stride < size[0]
    columns = torch.arange(grid_size[1], device=device) * stride < size[1]
    return (rows[:, None] & columns[None, :]).flatten()


class AnchorGenerator(nn.Module):
    """Anchors for each level of a feature pyramid, in the features' dtype and on their device.

    Args:
        sizes: for each level the square roots of the anchors' areas, in pixels.
        aspect_ratios: heights divided by widths, the same at every level.
        strides: of the levels, in pixels.

    Raises:
        UserError: ``sizes`` and ``strides`` differ in length, or the levels in their number of sizes.
    """

    box_dim = 4

    def __init__(self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        if len(sizes) != len(strides) or len({len(level) for level in sizes}) != 1:
            raise UserError(
                f"AnchorGenerator: sizes needs one list a level, all of one length, "
                f"got {[list(level) for level in sizes]} for strides {list(strides)}"
            )
        self.sizes = [[float(size) for size in level] for level in sizes]
        self.aspect_ratios = [float(ratio) for ratio in aspect_ratios]
        self.strides = list(strides)

    @property
    def num_anchors(self) -> list[int]:
        """Anchors a cell, for each level."""
        return [len(level) * len(self.aspect_ratios) for level in self.sizes]

    def forward(self, features: Sequence[Tensor]) -> list[PreciseBoxes]:
        """Anchors of each (N, C, H, W) level: H * W * A boxes, the same for all images."""
        anchors = []
        for feature, sizes, stride in zip(features, self.sizes, self.strides, strict=True):
            # Half precision would move anchors by whole pixels.
            dtype = torch.promote_types(feature.dtype, torch.float32)
            cell = cell_anchors(
                torch.tensor(sizes, dtype=dtype, device=feature.device),
                torch.tensor(self.aspect_ratios, dtype=dtype, device=feature.device),
            )
            anchors.append(PreciseBoxes(grid_anchors(cell, feature.shape[-2:], stride)))
        return anchors

    def within(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Which anchors belong to cells of the top left ``size`` = (height, width) pixels.

        Returns:
            Boolean, one an anchor of all levels, in the order of :meth:`forward`.
        """
        levels = zip(features, self.strides, self.num_anchors, strict=True)
        return torch.cat(
            [
                cells_within(feature.shape[-2:], stride, size, feature.device).repeat_interleave(number)
                for feature, stride, number in levels
            ]
        )
