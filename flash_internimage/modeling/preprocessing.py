"""Preprocessing that the meta-architectures share: normalization and padding of a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor

from flash_internimage.errors import UserError


def normalize_and_pad(images: Sequence[Tensor], pixel_mean: Tensor, pixel_std: Tensor, backbone: Backbone) -> ImageList:
    """Normalize images and pad them with zeros at the right and bottom to the one size that the backbone needs.

    The size is divisible by the backbone's ``size_divisibility``. The ``padding_constraints`` of newer detectron2 versions
    have precedence: another ``size_divisibility``, or ``square_size`` for batches of one fixed, square size.

    As in MMDetection, normalization is in float32 even if the network is in float64: near a kink of bilinear sampling, a
    rounding error in the image selects another slope, which changes gradients by 1e-5.

    Args:
        images: (C, H, W) each, on the scale of 0..255.
        pixel_mean, pixel_std: (C, 1, 1); the batch has their dtype and device.
        backbone: defines the padding.

    Raises:
        UserError: an image is larger than ``square_size``.
    """
    normalized = [_normalize(image.to(pixel_mean.device), pixel_mean, pixel_std) for image in images]
    divisor, square_size = padding_rule(backbone)
    if square_size > 0:
        return _pad_to_square(normalized, square_size, divisor)
    return ImageList.from_tensors(normalized, divisor)


def normalize_and_pad_batch(images: Tensor, sizes: Tensor, pixel_mean: Tensor, pixel_std: Tensor, backbone: Backbone) -> Tensor:
    """Equivalent of :func:`normalize_and_pad` for images in one tensor and sizes on the device, for export.

    Args:
        images: (N, C, H, W) on the scale of 0..255, each image at the top left. What lies beyond its size is ignored.
        sizes: (N, 2) integers (height, width).
        pixel_mean, pixel_std, backbone: as for :func:`normalize_and_pad`.

    Returns:
        The padded batch.
    """
    height, width = images.shape[-2:]
    outside = padding_mask(sizes, (height, width))[:, None]
    normalized = _normalize(images, pixel_mean, pixel_std).masked_fill(outside, 0.0)
    divisor, square_size = padding_rule(backbone)
    divisor = max(divisor, 1)
    if square_size > 0:
        side = -(-square_size // divisor) * divisor
        return F.pad(normalized, (0, side - width, 0, side - height))
    return F.pad(normalized, (0, -width % divisor, 0, -height % divisor))


def padding_rule(backbone: Backbone) -> tuple[int, int]:
    """Return the divisor of the sides of padded batches (0 or 1: any size), and the side of square batches (0: any size)."""
    # detectron2 0.6 has no such attribute.
    constraints: Mapping[str, int] = getattr(backbone, "padding_constraints", {})
    return constraints.get("size_divisibility", backbone.size_divisibility), constraints.get("square_size", 0)


def padding_mask(sizes: Tensor, padded_size: Sequence[int]) -> Tensor:
    """(N, H, W) bool, true outside each image; ``sizes`` are (N, 2) (height, width), ``padded_size`` is (H, W)."""
    rows = torch.arange(padded_size[0], device=sizes.device)
    columns = torch.arange(padded_size[1], device=sizes.device)
    return (rows[None, :, None] >= sizes[:, :1, None]) | (columns[None, None, :] >= sizes[:, 1:, None])


def _normalize(image: Tensor, pixel_mean: Tensor, pixel_std: Tensor) -> Tensor:
    return ((image - pixel_mean.float()) / pixel_std.float()).to(pixel_mean.dtype)


def _pad_to_square(images: list[Tensor], square_size: int, divisor: int) -> ImageList:
    """Pad images to squares of ``square_size``, rounded up to a multiple of ``divisor``; detectron2 0.6 cannot."""
    for image in images:
        height, width = image.shape[-2:]
        if max(height, width) > square_size:
            raise UserError(
                f"padding_constraints of the backbone: images must fit its square_size of {square_size} pixels, got one of "
                f"{height} x {width}; resize images to fit, or set a larger square_size"
            )
    side = -(-square_size // divisor) * divisor if divisor > 1 else square_size
    batch = ImageList.from_tensors(images, divisor)
    height, width = batch.tensor.shape[-2:]
    batch.tensor = F.pad(batch.tensor, (0, side - width, 0, side - height))
    return batch
