"""Region features from the pyramid level that fits each box's size.

As in Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1. detectron2's ``ROIPooler`` rounds a
size that lies within 1e-6 of the border between two levels the other way, and pools from rounded boxes in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align


def assign_levels(boxes: Tensor, num_levels: int, finest_size: float) -> Tensor:
    """The pyramid level of each box: level 0 up to twice ``finest_size``, level 1 up to four times, and so on.

    Args:
        boxes: (R, 4) XYXY boxes.
        num_levels: larger boxes take the last level.
        finest_size: side of a square, in pixels.

    Returns:
        (R,) int64.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    return (sizes / finest_size + 1e-6).log2().floor().clamp(0, num_levels - 1).long()


class RoIPooler(nn.Module):
    """RoIAlign on the level that fits each box.

    Half-precision features are pooled in float32, because box corners need it.

    Args:
        output_size: side of the pooled map, in cells.
        strides: of the levels, in pixels.
        finest_size: see :func:`assign_levels`.
    """

    def __init__(self, output_size: int, strides: Sequence[int], finest_size: float = 56) -> None:
        super().__init__()
        self.output_size = output_size
        self.strides = list(strides)
        self.finest_size = finest_size

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Boxes]) -> Tensor:
        """
        Args:
            features: for each level (N, C, H, W).
            boxes: for each image its boxes in pixels, R in all.

        Returns:
            (R, C, output_size, output_size), image by image.
        """
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        corners = torch.cat([image_boxes.tensor for image_boxes in boxes]).to(dtype)
        numbers = torch.cat([corners.new_full((len(image_boxes), 1), n) for n, image_boxes in enumerate(boxes)])
        rois = torch.cat([numbers, corners], dim=1)
        levels = assign_levels(corners, len(self.strides), self.finest_size)

        channels = features[0].shape[1]
        pooled = features[0].new_zeros(len(rois), channels, self.output_size, self.output_size)
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            members = (levels == level).nonzero().flatten()
            # The adaptive number of samples (0) and the half-pixel shift are those of the published models.
            region = roi_align(feature.to(dtype), rois[members], self.output_size, 1 / stride, 0, aligned=True)
            # Levels without a box take part too, so that all of them stay in the graph.
            pooled.index_put_((members,), region.to(pooled.dtype))
        return pooled
