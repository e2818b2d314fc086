"""Multi-scale deformable attention over a pyramid of feature maps.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", arXiv:2010.04159, section 4.1.

Its sampling points, and the argument checks shared by all devices, are in ``csrc/ms_deform_attn``. Kernels, autograd and
autocast of all operators are in ``csrc/cpu``, ``csrc/cuda`` and ``csrc/autograd``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_internimage.errors import UserError

from . import _extension

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[Sequence[int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Attend to bilinear samples of every level: a weighted sum per query and head.

    A location (x, y) is sampled at pixel (x * width - 0.5, y * height - 0.5) of its level, so 0 and 1 are the edges of the
    level. Sampling is bilinear, with zeros outside the level. A point contributes only if its pixel coordinates satisfy
    -1 < x < width and -1 < y < height. Points outside, including those with NaN or infinite locations, read nothing and get
    zero gradients.

    Args:
        value: (N, S, heads, D) pixels of all levels, concatenated level by level, each in row-major order; float32,
            float64, float16 or bfloat16.
        spatial_shapes: (height, width) of each of L levels, at most 32; S is the sum of height * width. A tensor (L, 2) is
            copied to the host, which synchronizes a GPU.
        sampling_locations: (N, Q, heads, L, points, 2) as (x, y), normalized by the size of each level. The dtype is that
            of value, or float32 if value is in half precision.
        attention_weights: (N, Q, heads, L, points), used without softmax. The dtype is as for sampling_locations.

    Returns:
        (N, Q, heads * D) in the dtype of value. Sampling locations and sums are computed in float32 or wider.

    Raises:
        ValueError: an argument is invalid or inconsistent with another; the message names it.
        UserError: the compiled library is missing, or has no kernels for the device.
    """
    return _extension.operator("ms_deform_attn", value, sampling_locations, attention_weights)(
        value, _flat_shapes(spatial_shapes), *_one_dtype(sampling_locations, attention_weights)
    )


def _flat_shapes(spatial_shapes: Sequence[Sequence[int]] | Tensor) -> list[int]:
    """Flatten spatial_shapes to [height, width, height, width, ...] as the operator's schema requires."""
    levels = spatial_shapes
    if isinstance(levels, Tensor) and levels.dim() == 2 and not levels.is_floating_point():
        levels = levels.tolist()
    elif torch.jit.is_tracing():  # torch.jit.trace turns the sizes of a tensor into tensors
        levels = [[int(size) for size in level] for level in levels]
    if (
        isinstance(levels, Tensor)
        or any(not isinstance(level, Sequence) or len(level) != 2 for level in levels)
        or any(not isinstance(size, (int, torch.SymInt)) for level in levels for size in level)
    ):
        raise UserError(
            f"ms_deform_attn: spatial_shapes needs a (height, width) pair of integers for each level, got {spatial_shapes!r}"
        )
    return [size for level in levels for size in level]


def _one_dtype(sampling_locations: Tensor, attention_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Promote both to float32 if exactly one is: rounding locations to half precision would move them by whole pixels."""
    if sampling_locations.dtype in _LOW_PRECISION and attention_weights.dtype == torch.float32:
        sampling_locations = sampling_locations.float()
    elif sampling_locations.dtype == torch.float32 and attention_weights.dtype in _LOW_PRECISION:
        attention_weights = attention_weights.float()
    return sampling_locations, attention_weights


def _fake_forward(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Return an empty output for tracing; repeats the shape checks of the compiled library with the same messages."""
    torch._check_value(
        value.dim() == 4,
        lambda: f"ms_deform_attn: value needs the shape (batch, tokens, heads, channels), got {list(value.shape)}",
    )
    torch._check_value(
        sampling_locations.dim() == 6,
        lambda: (
            "ms_deform_attn: sampling_locations needs the shape (batch, queries, heads, levels, points, 2), "
            f"got {list(sampling_locations.shape)}"
        ),
    )
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    levels = len(spatial_shapes) // 2
    locations_shape = [batch, queries, heads, levels, points, 2]
    torch._check_value(
        list(sampling_locations.shape) == locations_shape,
        lambda: (
            f"ms_deform_attn: sampling_locations needs the batch size ({batch}) and heads ({heads}) of value and the "
            f"levels ({levels}) of spatial_shapes, got shape {list(sampling_locations.shape)}"
        ),
    )
    torch._check_value(
        list(attention_weights.shape) == locations_shape[:-1],
        lambda: (
            "ms_deform_attn: attention_weights needs the shape of sampling_locations without the last axis, "
            f"{locations_shape[:-1]}, got {list(attention_weights.shape)}"
        ),
    )
    return value.new_empty((batch, queries, heads * channels))


def _fake_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[int],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *needed: bool,
) -> tuple[Tensor, ...]:
    """Return empty gradients for tracing; a gradient that is not needed has no elements, as in the compiled library."""
    inputs = (value, sampling_locations, attention_weights)
    return tuple(x.new_empty(x.shape if is_needed else (0,)) for x, is_needed in zip(inputs, needed, strict=True))


if _extension.is_available():
    torch.library.register_fake("flash_internimage::ms_deform_attn", _fake_forward)
    torch.library.register_fake("flash_internimage::ms_deform_attn_backward", _fake_backward)
