"""RoIAlign by multi-scale deformable attention, for inference on a CPU.

torchvision's CPU kernel reads (N, C, H, W) features one channel at a time. RoIAlign is an attention with fixed weights, whose
operator reads channels-last features in vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flash_internimage.ops.ms_deform_attn import ms_deform_attn


def roi_align(feature: Tensor, rois: Tensor, output_size: int, scale: float) -> Tensor:
    """Equivalent of ``torchvision.ops.roi_align`` with an adaptive number of samples and the half-pixel shift (``aligned``).

    Args:
        feature: (N, C, H, W); fast in channels-last memory format.
        rois: (R, 5) float32 or float64: image index and XYXY box in pixels of the image.
        output_size: side length S of the pooled feature map.
        scale: size of the feature map relative to the image.

    Returns:
        (R, C, S, S) in channels-last memory format and the dtype of the feature. Sampling locations are computed in the dtype
        of the RoIs.
    """
    batch, channels, height, width = feature.shape
    value = feature.permute(0, 2, 3, 1).reshape(batch, height * width, 1, channels)
    starts = rois[:, 1:3] * scale - 0.5  # as (x, y), like all below
    bins = ((rois[:, 3:] * scale - 0.5) - starts) / output_size
    # Samples per bin along each axis. RoIs of one image with the same numbers are pooled in one call.
    kinds = torch.cat([rois[:, :1], bins.ceil()], dim=1).long()
    pooled = feature.new_zeros(len(rois), output_size, output_size, channels)
    for kind in kinds.unique(dim=0):
        image, across, down = kind.tolist()
        if across < 1 or down < 1:
            continue
        members = (kinds == kind).all(dim=1).nonzero().flatten()
        x, x_inside = _samples(starts[members, 0], bins[members, 0], output_size, across, width)
        y, y_inside = _samples(starts[members, 1], bins[members, 1], output_size, down, height)
        shape = (len(members), output_size, output_size, down, across)
        locations = torch.stack([x[:, None, :, None, :].expand(shape), y[:, :, None, :, None].expand(shape)], dim=-1)
        weights = (x_inside[:, None, :, None, :] & y_inside[:, :, None, :, None]).to(rois.dtype) / (down * across)
        with torch.autocast("cpu", enabled=False):
            sampled = ms_deform_attn(
                value[image : image + 1],
                [(height, width)],
                locations.view(1, -1, 1, 1, down * across, 2),
                weights.view(1, -1, 1, 1, down * across),
            )
        pooled[members] = sampled.view(len(members), output_size, output_size, channels)
    return pooled.permute(0, 3, 1, 2)


def _samples(start: Tensor, size: Tensor, bins: int, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Sampling locations along one axis, and which of them are inside the feature map.

    Args:
        start: (R,) of the RoIs, in pixels of the feature map.
        size: (R,) of a bin, in pixels of the feature map.
        bins: number of bins S.
        count: samples per bin.
        length: of the feature map, in pixels.

    Returns:
        (R, S, count) locations relative to ``length``, clamped to the centers of the border pixels, and booleans.
    """
    first = torch.arange(bins, dtype=start.dtype, device=start.device)[:, None] * size[:, None, None]
    within = (torch.arange(count, dtype=start.dtype, device=start.device) + 0.5) * size[:, None, None] / count
    pixels = start[:, None, None] + first + within
    inside = (pixels >= -1) & (pixels <= length)
    return (pixels.clamp(0, length - 1) + 0.5) / length, inside
