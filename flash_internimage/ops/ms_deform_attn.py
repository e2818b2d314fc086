"""Multi-scale deformable attention over a pyramid of feature maps.

Source: Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", arXiv:2010.04159, section 4.1.
Kernels, autograd, autocast and the checks that hold for every device are in ``csrc/ms_deform_attn``.
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
    """Weighted sum of bilinear samples from every level, separately for each query and head.

    A location (x, y) lies at x * width - 0.5, y * height - 0.5 in cells of its level, so that 0 and 1 are the level's
    edges. Cells outside the level are zero. A point counts when -1 < x < width and -1 < y < height, in cells; others,
    among them those of NaN and infinite locations, are neither read nor given a gradient.

    Args:
        value: (N, S, heads, D), the cells of all levels, one level after the other, row by row; float32, float64, float16
            or bfloat16.
        spatial_shapes: (height, width) of each of L levels, at most 32; S is the sum of height * width. Given as a
            tensor (L, 2), it is read back to the host, for which a GPU has to wait.
        sampling_locations: (N, Q, heads, L, points, 2) as (x, y), relative to each level.
        attention_weights: (N, Q, heads, L, points), used as they are: no softmax. Of the dtype of value, or float32
            beside value in low precision, as sampling_locations.

    Returns:
        (N, Q, heads * D), of the dtype of value. Sums are accumulated, and locations computed, in float32 or wider.

    Raises:
        ValueError: an argument does not fit the others; the message names it.
        UserError: the compiled library is missing, or lacks kernels for the device.
    """
    return _extension.operator("ms_deform_attn", value, sampling_locations, attention_weights)(
        value, _flat_shapes(spatial_shapes), *_one_dtype(sampling_locations, attention_weights)
    )


def _flat_shapes(spatial_shapes: Sequence[Sequence[int]] | Tensor) -> list[int]:
    """Heights and widths, by turns."""
    levels = spatial_shapes
    if isinstance(levels, Tensor) and levels.dim() == 2 and not levels.is_floating_point():
        levels = levels.tolist()
    elif torch.jit.is_tracing():  # which hands the sizes of a tensor over as tensors
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
    """The wider dtype for both where one of them is in low precision: float32 locations keep their cell."""
    if sampling_locations.dtype in _LOW_PRECISION and attention_weights.dtype == torch.float32:
        sampling_locations = sampling_locations.float()
    elif sampling_locations.dtype == torch.float32 and attention_weights.dtype in _LOW_PRECISION:
        attention_weights = attention_weights.float()
    return sampling_locations, attention_weights


def _fake_forward(
    value: Tensor, spatial_shapes: Sequence[int], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """The output's shape. Repeats those checks of the compiled library that depend on shapes, for tracing."""
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
    """The gradients' shapes; one that is not wanted is an empty tensor."""
    inputs = (value, sampling_locations, attention_weights)
    return tuple(of.new_empty(of.shape if is_needed else (0,)) for of, is_needed in zip(inputs, needed, strict=True))


if _extension.is_available():
    torch.library.register_fake("flash_internimage::ms_deform_attn", _fake_forward)
    torch.library.register_fake("flash_internimage::ms_deform_attn_backward", _fake_backward)
