"""Anchor generator for a feature pyramid, which can exclude the padding of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.structures.boxes import PreciseBoxes


def cell_anchors(sizes: Tensor, aspect_ratios: Tensor) -> Tensor:
    """Anchors of one position, centered on the origin.

    Args:
        sizes: (S,) square roots of the anchor areas, in pixels.
        aspect_ratios: (A,) height / width.

    Returns:
        (S * A, 4) XYXY boxes, with the aspect ratio as the inner dimension.
    """
    height_factors = aspect_ratios.sqrt()
    widths = (sizes[:, None] / height_factors).flatten()
    heights = (sizes[:, None] * height_factors).flatten()
    return torch.stack([-widths, -heights, widths, heights], dim=1) * 0.5


def grid_anchors(cell: Tensor, grid_size: Sequence[int], stride: int) -> Tensor:
    """Replicate the anchors of one position over a feature map, centered on the top-left corner of each position.

    Args:
        cell: (A, 4) XYXY boxes centered on the origin; see :func:`cell_anchors`.
        grid_size: (height, width) of the feature map.
        stride: distance between neighboring positions, in pixels of the image.

    Returns:
        (height * width * A, 4) XYXY boxes: positions in row-major order, with the anchor as the inner dimension.
    """
    rows, columns = grid_size
    y = torch.arange(rows, dtype=cell.dtype, device=cell.device) * stride
    x = torch.arange(columns, dtype=cell.dtype, device=cell.device) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + cell).reshape(-1, 4)


def positions_within(grid_size: Sequence[int], stride: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Mask of the positions of a feature map whose top-left corner lies in the top-left ``size`` pixels of the image.

    Args:
        grid_size: (height, width) of the feature map.
        stride: distance between neighboring positions, in pixels of the image.
        size: (height, width) of the area, in pixels of the image.

    Returns:
        (height * width,) boolean, in row-major order.
    """
    rows = torch.arange(grid_size[0], device=device) * stride < size[0]
    columns = torch.arange(grid_size[1], device=device) * stride < size[1]
    return (rows[:, None] & columns[None, :]).flatten()


class AnchorGenerator(nn.Module):
    """Generates the anchors of each feature pyramid level, in the dtype and on the device of the features.

    Replaces detectron2's ``DefaultAnchorGenerator``, which places the same anchors but always in float32. MMDetection also
    excludes anchors in the padding of a batch from training, for which :meth:`within` computes a mask.

    Args:
        sizes: for each level the square roots of the anchor areas, in pixels.
        aspect_ratios: height / width, the same for all levels.
        strides: stride of each level, in pixels.

    Raises:
        UserError: ``sizes`` and ``strides`` differ in length, or the levels differ in their number of sizes.
    """

    box_dim = 4

    def __init__(self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], strides: Sequence[int]) -> None:
        super().__init__()
        if len(sizes) != len(strides) or len({len(level) for level in sizes}) != 1:
            raise UserError(
                f"AnchorGenerator: sizes needs one list per level, all of the same length, "
                f"got {[list(level) for level in sizes]} for strides {list(strides)}"
            )
        self.sizes = [[float(size) for size in level] for level in sizes]
        self.aspect_ratios = [float(ratio) for ratio in aspect_ratios]
        self.strides = list(strides)

    @property
    def num_anchors(self) -> list[int]:
        """Number of anchors per position, for each level."""
        return [len(level) * len(self.aspect_ratios) for level in self.sizes]

    def forward(self, features: Sequence[Tensor]) -> list[PreciseBoxes]:
        """Anchors of each (N, C, H, W) level: H * W * A boxes, shared by all images."""
        anchors = []
        for feature, sizes, stride in zip(features, self.sizes, self.strides, strict=True):
            # Rounding to half precision would move anchors by whole pixels.
            dtype = torch.promote_types(feature.dtype, torch.float32)
            cell = cell_anchors(
                torch.tensor(sizes, dtype=dtype, device=feature.device),
                torch.tensor(self.aspect_ratios, dtype=dtype, device=feature.device),
            )
            anchors.append(PreciseBoxes(grid_anchors(cell, feature.shape[-2:], stride)))
        return anchors

    def within(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Mask of the anchors whose position lies in the top-left ``size`` = (height, width) pixels of the image.

        Returns:
            (R,) boolean for the R anchors of all levels, in the order of :meth:`forward`.
        """
        levels = zip(features, self.strides, self.num_anchors, strict=True)
        return torch.cat(
            [
                positions_within(feature.shape[-2:], stride, size, feature.device).repeat_interleave(number)
                for feature, stride, number in levels
            ]
        )
