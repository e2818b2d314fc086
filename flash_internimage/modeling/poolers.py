"""RoI pooling from the feature pyramid level that matches the size of each box.

Source: Lin et al., "Feature Pyramid Networks for Object Detection", 2017, equation 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor, nn
from torchvision.ops import roi_align

from flash_internimage.layers.inference import is_plain_inference
from flash_internimage.ops import _extension

from .roi_align import roi_align as roi_align_by_attention


def assign_levels(boxes: Tensor, num_levels: int, finest_size: float) -> Tensor:
    """Assign each box to a pyramid level: 0 below a size of 2 * ``finest_size``, 1 below 4 * ``finest_size``, and so on.

    Args:
        boxes: (R, 4) XYXY boxes; the size of a box is the square root of its area.
        num_levels: number of levels; larger boxes are assigned to the last one.
        finest_size: reference size, in pixels.

    Returns:
        (R,) int64 level indices.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    return (sizes / finest_size + 1e-6).log2().floor().clamp(0, num_levels - 1).long()


class RoIPooler(nn.Module):
    """RoIAlign from the pyramid level of each box.

    Replaces detectron2's ``ROIPooler``, which differs in two details: it assigns a size within a relative 1e-6 of the
    border between two levels to the other level, and in half precision it pools from rounded boxes. Here half-precision
    features are pooled in float32, so that the boxes are not rounded.

    Args:
        output_size: side length of the pooled feature map.
        strides: stride of each level, in pixels.
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
            features: (N, C, H, W) for each level.
            boxes: XYXY boxes in pixels for each image, R in total.

        Returns:
            (R, C, output_size, output_size), in the order of the images and their boxes.
        """
        dtype = _pooling_dtype(features)
        corners = torch.cat([image_boxes.tensor for image_boxes in boxes]).to(dtype)
        # The numbers of boxes are read from shapes: len() would be a constant in a trace.
        numbers = torch.cat([corners.new_full((image_boxes.tensor.shape[0], 1), n) for n, image_boxes in enumerate(boxes)])
        rois = torch.cat([numbers, corners], dim=1)
        levels = assign_levels(corners, len(self.strides), self.finest_size)

        if is_plain_inference(rois, *features) and _extension.is_available():
            return self._pool_channels_last(features, rois, levels)
        channels = features[0].shape[1]
        pooled = features[0].new_zeros(rois.shape[0], channels, self.output_size, self.output_size)
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            members = (levels == level).nonzero().flatten()
            region = self._pool_level(feature.to(dtype), rois[members], stride)
            # Levels without boxes are pooled too, so that they stay in the autograd graph.
            pooled.index_put_((members,), region.to(pooled.dtype))
        return pooled

    def _pool_channels_last(self, features: Sequence[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        """Equivalent of the rest of :meth:`forward` without autograd; in half precision no feature map is converted."""
        size = self.output_size
        pooled = features[0].new_zeros(len(rois), size, size, features[0].shape[1]).permute(0, 3, 1, 2)
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            members = (levels == level).nonzero().flatten()
            pooled[members] = roi_align_by_attention(feature, rois[members], size, 1 / stride)
        return pooled

    def pool_batch(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Equivalent of :meth:`forward` in which no size depends on the boxes, for export.

        Args:
            features: (N, C, H, W) for each level.
            boxes: (N, R, 4) XYXY in pixels; a fixed number of boxes per image.

        Returns:
            (N * R, C, output_size, output_size).
        """
        dtype = _pooling_dtype(features)
        corners = boxes.flatten(0, 1).to(dtype)
        numbers = torch.arange(boxes.shape[0], dtype=dtype, device=boxes.device).repeat_interleave(boxes.shape[1])[:, None]
        levels = assign_levels(corners, len(self.strides), self.finest_size)[:, None]
        pooled = features[0].new_zeros((), dtype=dtype)
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            # The boxes of other levels are replaced by empty ones, for which RoIAlign takes no samples and hardly any time.
            rois = torch.cat([numbers, torch.where(levels == level, corners, 0)], dim=1)
            region = self._pool_level(feature.to(dtype), rois, stride)
            pooled = torch.where((levels == level)[..., None, None], region, pooled)
        return pooled.to(features[0].dtype)

    def _pool_level(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        # As in MMDetection: an adaptive number of samples (sampling_ratio 0) and the half-pixel shift (aligned).
        return roi_align(feature, rois, self.output_size, 1 / stride, 0, aligned=True)


def _pooling_dtype(features: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype in which features are pooled: float32 for half precision."""
    return torch.promote_types(features[0].dtype, torch.float32)
