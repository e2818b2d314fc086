"""The two operators in standard ONNX operators, for ``torch.onnx.export(custom_translation_table=...)``.

Each operator is a sum of modulated bilinear samples, which ONNX can express in three forms. Runtimes differ in which forms they
compute correctly and fast:

- ``deform_conv``: ``DeformConv`` with a depthwise weight of ones, for DCNv4. One node; the fastest form in onnxruntime.
  OpenVINO has no rule for it.
- ``grid_sample``: ``GridSample``, for both operators. The fastest form in OpenVINO. Some versions of TensorRT
  (10.13 to 11.1) are reported to compute wrong results for it, without an error.
- ``gather``: four gathers of the corners from a padded feature map, for both operators. Only elementary operators: the slowest
  form, and the most portable one.

All forms compute sampling locations and sums in float32, whatever the dtype of the values, like the compiled operators.
The nodes are those of opset 19.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset19

op: Any = opset19  # its types know neither symbolic tensors nor onnx_ir

Form = Literal["deform_conv", "grid_sample", "gather"]

OPSET = 19
"""The first version with ``DeformConv``. Later ones only widen dtypes, and fewer runtimes know them."""


@dataclass(frozen=True)
class _Samples:
    """Sizes of a sum of samples; those that may depend on the input are tensors of one integer.

    Attributes:
        batch: N.
        queries: Q, number of outputs per image.
        height, width: H and W of the feature map.
        groups: G, the groups of channels, each with its own points.
        group_channels: D, channels of a group.
        points: K, points of a group.
    """

    batch: Any
    queries: Any
    height: Any
    width: Any
    groups: int
    group_channels: int
    points: int


Sampler = Callable[[Any, Any, Any, _Samples], Any]
"""Function of value (N, H, W, G * D), locations (N, Q, G, K, 2) as (x, y) in pixels, weights (N, Q, G, K), all float32, and
their sizes: the weighted sums of samples (N, Q, G * D)."""


def translation_table(dcnv4_form: Form, ms_deform_attn_form: Form) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations of the operators into ONNX, for ``torch.onnx.export(custom_translation_table=...)``.

    Args:
        dcnv4_form: form of :func:`flash_internimage.ops.dcnv4`.
        ms_deform_attn_form: form of :func:`flash_internimage.ops.ms_deform_attn`; "grid_sample" or "gather".
    """
    dcnv4 = {
        "deform_conv": _dcnv4_as_deform_conv,
        "grid_sample": _dcnv4_with(_sample_with_grid_sample),
        "gather": _dcnv4_with(_sample_with_gather),
    }
    attention = {
        "grid_sample": _ms_deform_attn_with(_sample_with_grid_sample),
        "gather": _ms_deform_attn_with(_sample_with_gather),
    }
    return {
        torch.ops.aten.amax.default: _reduction(op.ReduceMax),
        torch.ops.aten.amin.default: _reduction(op.ReduceMin),
        torch.ops.aten.full.default: _full,
        torch.ops.flash_internimage.dcnv4.default: dcnv4[dcnv4_form],
        torch.ops.flash_internimage.ms_deform_attn.default: attention[ms_deform_attn_form],
    }


def _reduction(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """Translate ``Tensor.amax`` or ``amin`` with and without ``dim``; the exporter's own rules require it."""

    def reduction(tensor: Any, dim: Sequence[int] | int = (), keepdim: bool = False) -> Any:
        axes = [dim] if isinstance(dim, int) else list(dim)
        return reduce(tensor, _ints(axes), keepdims=int(keepdim)) if axes else reduce(tensor, keepdims=int(keepdim))

    return reduction


def _full(
    size: Sequence[Any], fill_value: Any, dtype: int = -1, layout: str = "", device: str = "", pin_memory: bool = False
) -> Any:
    """Translate ``torch.full``; the exporter's own rule expands a scalar to rank 0, which OpenVINO refuses."""
    if not isinstance(fill_value, bool | int | float):  # a size of the input
        value = fill_value if dtype == -1 else op.Cast(fill_value, to=dtype)
    else:
        number = torch.tensor(fill_value).numpy()
        value = _array(number if dtype == -1 else number.astype(ir.DataType(dtype).numpy()))
    return op.Expand(value, op.Concat(*map(_one_size, size), axis=0)) if len(size) else value


def _dcnv4_as_deform_conv(
    value: Any,
    offset_mask: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> Any:
    """``DeformConv`` with one channel per convolution group, weights of one, and DCNv4's groups as its offset groups.

    DCNv4 numbers the points of a window column by column and stores offsets as (x, y); DeformConv numbers them row by row and
    stores (y, x). DCNv4's ``offset_scale`` stretches the regular grid as well as the offsets: with c the center of the grid,

        i * dilation + offset' = c + (i * dilation - c + offset) * offset_scale
        offset' = offset * offset_scale + (i * dilation - c) * (offset_scale - 1)
    """
    channels = _static(value, 3)
    height, width = kernel_size
    order, grid = _points(kernel_size, dilation, remove_center)
    number = {point: k for k, point in enumerate(order)}
    points = len(order)
    unused = _static(offset_mask, 3)  # index of a channel of zeros: the removed center has modulation 0
    offset_channels, mask_channels, stretch = [], [], []
    for g in range(groups):
        start = 3 * points * g
        for j in range(height):
            for i in range(width):
                k = number.get((i, j))
                x, y = (0.0, 0.0) if k is None else grid[k]
                offset_channels += [unused, unused] if k is None else [start + 2 * k + 1, start + 2 * k]
                mask_channels.append(unused if k is None else start + 2 * points + k)
                stretch += [y * (offset_scale - 1), x * (offset_scale - 1)]
    given = _to_float(offset_mask)
    if remove_center:
        given = op.Pad(given, _ints([0] * 7 + [1]))
    offset = op.Gather(given, _ints(offset_channels), axis=3)
    if offset_scale != 1:
        offset = op.Add(op.Mul(offset, _float(offset_scale)), _floats(stretch))
    output = op.DeformConv(
        op.Transpose(_to_float(value), perm=[0, 3, 1, 2]),
        _array(np.ones((channels, 1, height, width), np.float32)),
        op.Transpose(offset, perm=[0, 3, 1, 2]),
        _floats([0.0] * channels),
        op.Transpose(op.Gather(given, _ints(mask_channels), axis=3), perm=[0, 3, 1, 2]),
        dilations=list(dilation),
        group=channels,
        kernel_shape=list(kernel_size),
        offset_group=groups,
        pads=[padding[0], padding[1], padding[0], padding[1]],
        strides=list(stride),
    )
    return _to_dtype_of(op.Transpose(output, perm=[0, 2, 3, 1]), value)


def _dcnv4_with(sample: Sampler) -> Callable[..., Any]:
    """Translate DCNv4 into its sampling locations and a call of a sampler."""

    def dcnv4(
        value: Any,
        offset_mask: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        offset_scale: float,
        remove_center: bool,
    ) -> Any:
        order, grid = _points(kernel_size, dilation, remove_center)
        points = len(order)
        channels = _static(value, 3)
        batch, out_height, out_width = (_size(offset_mask, axis) for axis in range(3))
        given = _to_float(offset_mask)

        # The window of an output starts at its row * stride - padding; (x, y) of its grid's center is added.
        center = [dilation[1] * (kernel_size[1] - 1) // 2, dilation[0] * (kernel_size[0] - 1) // 2]
        windows = op.Concat(
            op.Expand(
                op.Reshape(_steps(out_width, stride[1], center[0] - padding[1]), _ints([1, -1, 1])),
                op.Concat(out_height, out_width, _ints([1]), axis=0),
            ),
            op.Expand(
                op.Reshape(_steps(out_height, stride[0], center[1] - padding[0]), _ints([-1, 1, 1])),
                op.Concat(out_height, out_width, _ints([1]), axis=0),
            ),
            axis=2,
        )
        windows = op.Reshape(windows, _ints([1, -1, 1, 1, 2]))

        offset_channels = [3 * points * g + k for g in range(groups) for k in range(2 * points)]
        mask_channels = [3 * points * g + 2 * points + k for g in range(groups) for k in range(points)]
        offset = op.Reshape(
            op.Gather(given, _ints(offset_channels), axis=3), op.Concat(batch, _ints([-1, groups, points, 2]), axis=0)
        )
        mask = op.Reshape(op.Gather(given, _ints(mask_channels), axis=3), op.Concat(batch, _ints([-1, groups, points]), axis=0))
        stretched = _array(np.array(grid, np.float32) * np.float32(offset_scale))
        locations = op.Add(op.Add(op.Mul(offset, _float(offset_scale)), stretched), windows)

        sizes = _Samples(
            batch, op.Mul(out_height, out_width), _size(value, 1), _size(value, 2), groups, channels // groups, points
        )
        output = sample(_to_float(value), locations, mask, sizes)
        output = op.Reshape(output, op.Concat(batch, out_height, out_width, _ints([channels]), axis=0))
        return _to_dtype_of(output, value)

    return dcnv4


def _ms_deform_attn_with(sample: Sampler) -> Callable[..., Any]:
    """Translate multi-scale deformable attention into one call of a sampler per level."""

    def ms_deform_attn(value: Any, spatial_shapes: Sequence[Any], sampling_locations: Any, attention_weights: Any) -> Any:
        heads, channels = _static(value, 2), _static(value, 3)
        levels = len(spatial_shapes) // 2
        batch, queries = _size(value, 0), _size(sampling_locations, 1)
        points = _static(sampling_locations, 4)
        values, locations, weights = (_to_float(x) for x in (value, sampling_locations, attention_weights))
        start: Any = _ints([0])
        output = None
        for level in range(levels):
            height, width = (_one_size(size) for size in spatial_shapes[2 * level : 2 * level + 2])
            end = op.Add(start, op.Mul(height, width))
            feature = op.Reshape(
                op.Slice(values, start, end, _ints([1])),
                op.Concat(batch, height, width, _ints([heads * channels]), axis=0),
            )
            size = op.Cast(op.Concat(width, height, axis=0), to=ir.DataType.FLOAT)
            pixels = op.Sub(op.Mul(op.Gather(locations, _int(level), axis=3), size), _float(0.5))
            sizes = _Samples(batch, queries, height, width, heads, channels, points)
            part = sample(feature, pixels, op.Gather(weights, _int(level), axis=3), sizes)
            output = part if output is None else op.Add(output, part)
            start = end
        return _to_dtype_of(output, value)

    return ms_deform_attn


def _sample_with_grid_sample(value: Any, locations: Any, weights: Any, sizes: _Samples) -> Any:
    """The :data:`Sampler` of ``GridSample``."""
    groups, group_channels, points = sizes.groups, sizes.group_channels, sizes.points
    planes = op.Concat(op.Mul(sizes.batch, _ints([groups])), _ints([group_channels]), sizes.height, sizes.width, axis=0)
    features = op.Reshape(op.Transpose(value, perm=[0, 3, 1, 2]), planes)
    scale = op.Cast(op.Concat(sizes.width, sizes.height, axis=0), to=ir.DataType.FLOAT)
    grid = op.Sub(op.Div(op.Add(op.Mul(locations, _float(2.0)), _float(1.0)), scale), _float(1.0))
    # 4 is outside the feature map at any size. Comparisons with NaN are false; large numbers overflow in some runtimes.
    grid = op.Where(op.Less(op.Abs(grid), _float(4.0)), grid, _float(4.0))
    grid = op.Reshape(
        op.Transpose(grid, perm=[0, 2, 1, 3, 4]), op.Concat(_ints([-1]), sizes.queries, _ints([points, 2]), axis=0)
    )
    factors = op.Reshape(
        op.Transpose(weights, perm=[0, 2, 1, 3]), op.Concat(_ints([-1, 1]), sizes.queries, _ints([points]), axis=0)
    )
    samples = op.GridSample(features, grid, align_corners=0, mode="bilinear", padding_mode="zeros")
    output = op.ReduceSum(op.Mul(samples, factors), _ints([3]), keepdims=0)
    output = op.Reshape(output, op.Concat(sizes.batch, _ints([groups * group_channels]), sizes.queries, axis=0))
    return op.Transpose(output, perm=[0, 2, 1])


def _sample_with_gather(value: Any, locations: Any, weights: Any, sizes: _Samples) -> Any:
    """The :data:`Sampler` of one gather per corner, from a feature map with a border of zeros."""
    groups = sizes.groups
    padded_height, padded_width = op.Add(sizes.height, _ints([2])), op.Add(sizes.width, _ints([2]))
    rows = op.Reshape(op.Pad(value, _ints([0, 1, 1, 0, 0, 1, 1, 0])), _ints([-1, sizes.group_channels]))

    def corner_and_fraction(axis: int, length: Any) -> tuple[Any, Any]:
        """Index of the first corner in the padded feature map, and the distance to it: (N, Q, G, K)."""
        limit = op.Cast(op.Squeeze(length, _ints([0])), to=ir.DataType.FLOAT)
        pixel = op.Gather(locations, _int(axis), axis=4)
        # A point outside the feature map moves to -1, which samples the border of zeros alone. Comparisons with NaN are false.
        inside = op.And(op.Greater(pixel, _float(-1.0)), op.Less(pixel, limit))
        pixel = op.Where(inside, pixel, _float(-1.0))
        corner = op.Floor(pixel)
        return op.Add(op.Cast(corner, to=ir.DataType.INT64), _int(1)), op.Sub(pixel, corner)

    column, right = corner_and_fraction(0, sizes.width)
    row, lower = corner_and_fraction(1, sizes.height)
    left, upper = op.Sub(_float(1.0), right), op.Sub(_float(1.0), lower)
    image = op.Reshape(op.Range(_int(0), op.Squeeze(sizes.batch, _ints([0])), _int(1)), _ints([-1, 1, 1, 1]))
    row = op.Add(row, op.Mul(image, padded_height))
    group = _array(np.arange(groups, dtype=np.int64)[:, None])
    first = op.Add(op.Mul(op.Add(op.Mul(row, padded_width), column), _int(groups)), group)
    below = op.Mul(padded_width, _ints([groups]))

    parts = []
    for index, factor in (
        (first, op.Mul(upper, left)),
        (op.Add(first, _int(groups)), op.Mul(upper, right)),
        (op.Add(first, below), op.Mul(lower, left)),
        (op.Add(first, op.Add(below, _ints([groups]))), op.Mul(lower, right)),
    ):
        samples = op.Gather(rows, index, axis=0)  # (N, Q, G, K, D)
        # (1, K) by (K, D): a product of matrices sums over the points.
        parts.append(op.MatMul(op.Unsqueeze(op.Mul(factor, weights), _ints([3])), samples))
    output = op.Add(op.Add(parts[0], parts[1]), op.Add(parts[2], parts[3]))
    return op.Reshape(output, op.Concat(sizes.batch, sizes.queries, _ints([groups * sizes.group_channels]), axis=0))


def _points(
    kernel_size: Sequence[int], dilation: Sequence[int], remove_center: bool
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The points of a window in DCNv4's order.

    Returns:
        (column, row) of each in the regular grid, and (x, y) from the center of the grid in pixels.
    """
    height, width = kernel_size
    order = [(i, j) for i in range(width) for j in range(height) if not (remove_center and (i, j) == (width // 2, height // 2))]
    center_x, center_y = dilation[1] * (width - 1) // 2, dilation[0] * (height - 1) // 2
    return order, [(i * dilation[1] - center_x, j * dilation[0] - center_y) for i, j in order]


def _steps(length: Any, step: int, start: int) -> Any:
    """``start + step * i`` for i below ``length``, a tensor of one integer: float32."""
    index = op.Range(_int(0), op.Squeeze(length, _ints([0])), _int(1))
    return op.Cast(op.Add(op.Mul(index, _int(step)), _int(start)), to=ir.DataType.FLOAT)


def _static(tensor: Any, axis: int) -> int:
    """A size that does not depend on the input."""
    size = tensor.shape[axis]
    if not isinstance(size, int):
        raise ValueError(f"axis {axis} of {tensor} must have a fixed size")
    return size


def _size(tensor: Any, axis: int) -> Any:
    """A size as a tensor of one integer; a constant if it is fixed."""
    if tensor.shape is not None and isinstance(tensor.shape[axis], int):
        return _ints([tensor.shape[axis]])
    return op.Shape(tensor, start=axis, end=axis + 1)


def _one_size(size: Any) -> Any:
    """An integer, or a scalar tensor, as a tensor of one integer."""
    return _ints([size]) if isinstance(size, int) else op.Reshape(size, _ints([1]))


def _to_float(tensor: Any) -> Any:
    return tensor if tensor.dtype == ir.DataType.FLOAT else op.Cast(tensor, to=ir.DataType.FLOAT)


def _to_dtype_of(output: Any, tensor: Any) -> Any:
    return output if tensor.dtype == ir.DataType.FLOAT else op.Cast(output, to=tensor.dtype)


def _array(values: np.ndarray) -> Any:
    tensor: Any = ir.tensor(values)
    return op.Constant(value=tensor)


def _int(number: int) -> Any:
    return op.Constant(value_int=number)


def _ints(numbers: Sequence[int]) -> Any:
    return op.Constant(value_ints=list(numbers))


def _float(number: float) -> Any:
    return op.Constant(value_float=number)


def _floats(numbers: Sequence[float]) -> Any:
    return op.Constant(value_floats=list(numbers))
