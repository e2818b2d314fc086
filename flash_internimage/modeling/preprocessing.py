"""Preprocessing that the meta-architectures share: normalization and padding of a batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    mean, std = pixel_mean.float(), pixel_std.float()
    normalized = [((image.to(mean.device) - mean) / std).to(pixel_mean.dtype) for image in images]
    # detectron2 0.6 has no such attribute.
    constraints: Mapping[str, int] = getattr(backbone, "padding_constraints", {})
    divisor = constraints.get("size_divisibility", backbone.size_divisibility)
    square_size = constraints.get("square_size", 0)
    if square_size > 0:
        return _pad_to_square(normalized, square_size, divisor)
    return ImageList.from_tensors(normalized, divisor)


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
