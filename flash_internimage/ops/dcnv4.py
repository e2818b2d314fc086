"""DCNv4: modulated deformable convolution without softmax over the modulation scalars.

Source: Xiong et al., "Efficient Deformable ConvNets", https://arxiv.org/abs/2401.06197.

Its sampling points, and the argument checks shared by all devices, are in ``csrc/dcnv4``. Kernels, autograd and autocast of all
operators are in ``csrc/cpu``, ``csrc/cuda`` and ``csrc/autograd``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_internimage.errors import UserError

from . import _extension


def dcnv4(
    value: Tensor,
    offset_mask: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """Apply a deformable convolution: sum K modulated bilinear samples per output position and channel group.

    The K sampling points of a window are numbered column by column: i is the outer index, over the kernel width, and j the
    inner one, over the kernel height. With c = dilation * (kernel_size - 1) // 2, point (i, j) of the output position
    (row, column) is sampled at

        x = c - padding + column * stride + (i * dilation - c + offset_x) * offset_scale,

    and y likewise with j and row. Sampling is bilinear, with zeros outside the feature map. A point contributes only if
    -1 < x < W and -1 < y < H. Points outside, including those with NaN or infinite offsets, read nothing and get zero
    gradients.

    Args:
        value: (N, H, W, C) features, with C = groups * D for any D; float32, float64, float16 or bfloat16.
        offset_mask: (N, Ho, Wo, P) offsets and modulation scalars, with Ho and Wo from :func:`output_size` and P at least
            3 * K * groups. Group g owns the channels [3 * K * g, 3 * K * (g + 1)): K offsets as (x, y) in pixels of the
            feature map, then K modulation scalars. Channels beyond 3 * K * groups are ignored. The dtype is that of
            value, or float32 if value is in half precision.
        kernel_size: an integer, or a (height, width) pair; number of points of the regular grid.
        stride, padding, dilation: an integer, or a (height, width) pair, in pixels of the feature map.
        groups: number of channel groups; each has its own sampling points.
        offset_scale: factor on the distance of every sampling point, regular grid and learned offset alike, from the
            center of its window.
        remove_center: omit the center point, so that K = kernel height * kernel width - 1.

    Returns:
        (N, Ho, Wo, C) in the dtype of value. Sampling locations and sums are computed in float32 or wider.

    Raises:
        ValueError: an argument is invalid or inconsistent with another; the message names it.
        UserError: the compiled library is missing, or has no kernels for the device.
    """
    return _extension.operator("dcnv4", value, offset_mask)(
        value,
        offset_mask,
        _pair("kernel_size", kernel_size),
        _pair("stride", stride),
        _pair("padding", padding),
        _pair("dilation", dilation),
        groups,
        offset_scale,
        remove_center,
    )


def output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Length of the output along one axis, in pixels of the feature map, as for any convolution.

    Args:
        size: length of the input.
        kernel_size, stride, padding, dilation: as for :func:`dcnv4`, along this axis.

    Raises:
        ValueError: the dilated kernel is longer than the padded input.
    """
    window = dilation * (kernel_size - 1) + 1
    padded = size + 2 * padding
    torch._check_value(
        window <= padded,
        lambda: (
            f"dcnv4: the dilated kernel must fit the padded value, got a kernel of {window} on {padded} cells "
            f"({size} + 2 x padding {padding}); use more padding or a smaller kernel_size or dilation"
        ),
    )
    return (padded - window) // stride + 1


def _pair(name: str, number: int | Sequence[int]) -> list[int]:
    """Expand an integer to a (height, width) pair; validate a pair."""
    if isinstance(number, int):
        return [number, number]
    if not isinstance(number, (list, tuple)) or len(number) != 2 or not all(isinstance(entry, int) for entry in number):
        raise UserError(f"dcnv4: {name} needs an integer or a (height, width) pair of integers, got {number!r}")
    return list(number)


def _fake_forward(
    value: Tensor,
    offset_mask: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> Tensor:
    """Return an empty output for tracing; repeats the shape checks of the compiled library with the same messages."""
    torch._check_value(
        value.dim() == 4,
        lambda: f"dcnv4: value needs the shape (batch, height, width, channels), got {list(value.shape)}",
    )
    torch._check_value(
        offset_mask.dim() == 4,
        lambda: (
            f"dcnv4: offset_mask needs the shape (batch, output height, output width, channels), got {list(offset_mask.shape)}"
        ),
    )
    batch, height, width, channels = value.shape
    torch._check_value(
        channels % groups == 0,
        lambda: f"dcnv4: value needs a number of channels that groups ({groups}) divides, got {channels}",
    )
    expected = [
        batch,
        output_size(height, kernel_size[0], stride[0], padding[0], dilation[0]),
        output_size(width, kernel_size[1], stride[1], padding[1], dilation[1]),
    ]
    for axis, (name, size) in enumerate(zip(("batch size", "height", "width"), expected, strict=True)):
        _check_size(offset_mask, axis, name, size)
    points = kernel_size[0] * kernel_size[1] - int(remove_center)
    torch._check_value(
        offset_mask.shape[3] >= 3 * points * groups,
        lambda: (
            f"dcnv4: offset_mask needs at least {3 * points * groups} channels (3 x {points} points x {groups} groups), "
            f"got {offset_mask.shape[3]} in shape {list(offset_mask.shape)}"
        ),
    )
    return value.new_empty((*expected, channels))


def _check_size(offset_mask: Tensor, axis: int, name: str, size: int) -> None:
    torch._check_value(
        offset_mask.shape[axis] == size,
        lambda: (
            f"dcnv4: offset_mask needs a {name} of {size}, got {offset_mask.shape[axis]} in shape {list(offset_mask.shape)}"
        ),
    )


def _fake_backward(
    grad_output: Tensor,
    value: Tensor,
    offset_mask: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
    needs_grad_value: bool,
    needs_grad_offset_mask: bool,
) -> tuple[Tensor, Tensor]:
    """Return empty gradients for tracing; a gradient that is not needed has no elements, as in the compiled library."""
    return (
        value.new_empty(value.shape if needs_grad_value else (0,)),
        offset_mask.new_empty(offset_mask.shape if needs_grad_offset_mask else (0,)),
    )


if _extension.is_available():
    torch.library.register_fake("flash_internimage::dcnv4", _fake_forward)
    torch.library.register_fake("flash_internimage::dcnv4_backward", _fake_backward)
