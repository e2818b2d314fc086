"""DCNv4, deformable convolution without softmax over its modulations.

Source: Xiong et al., "Efficient Deformable ConvNets", https://arxiv.org/abs/2401.06197. Kernels, autograd, autocast
and the checks that hold for every device are in ``csrc/dcnv4``.
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
    """Sum of modulated bilinear samples around every output cell, separately for each group of channels.

    With K points a group, numbered down the columns of the window, and c = dilation * (kernel_size - 1) // 2, point
    (i, j) of the output cell (row, column) lies at

        x = c - padding + column * stride + (i * dilation - c + offset_x) * offset_scale,

    and y likewise with j and row. Cells outside the map are zero. A point counts when -1 < x < W and -1 < y < H; others,
    among them those of NaN and infinite offsets, are neither read nor given a gradient.

    Args:
        value: (N, H, W, C) features, with C = groups * D for any D; float32, float64, float16 or bfloat16.
        offset_mask: (N, Ho, Wo, P) with Ho and Wo from :func:`output_size`, P at least 3 * K * groups. Group g owns the
            channels [3 * K * g, 3 * K * (g + 1)): K pairs (x, y) of offsets in cells, then K modulations. Channels after
            those of the last group are ignored. Of the dtype of value, or float32 beside value in low precision.
        kernel_size, stride, padding, dilation: one integer, or a (height, width) pair, in cells.
        groups: number of channel groups, each of which has its own points.
        offset_scale: stretches the window, learned offsets and regular grid alike, about its center.
        remove_center: leave out the center point, so that K = kernel height * kernel width - 1.

    Returns:
        (N, Ho, Wo, C), of the dtype of value. Sums are accumulated, and locations computed, in float32 or wider.

    Raises:
        ValueError: an argument does not fit the others; the message names it.
        UserError: the compiled library is missing, or lacks kernels for the device.
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
    """Length of the output along one axis, in cells.

    Args:
        size: length of the map.
        kernel_size, stride, padding, dilation: as for :func:`dcnv4`, along this axis.

    Raises:
        UserError: the dilated kernel is longer than the padded map.
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
    """(height, width) from one integer or two."""
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
    """The output's shape. Repeats those checks of the compiled library that depend on shapes, for tracing."""
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
    """The gradients' shapes; one that is not wanted is an empty tensor."""
    return (
        value.new_empty(value.shape if needs_grad_value else (0,)),
        offset_mask.new_empty(offset_mask.shape if needs_grad_offset_mask else (0,)),
    )


if _extension.is_available():
    torch.library.register_fake("flash_internimage::dcnv4", _fake_forward)
    torch.library.register_fake("flash_internimage::dcnv4_backward", _fake_backward)
