"""The operators on kernels in another process: what `csrc/autograd/kernel.h` does with tensors.

`installed(operators(process))` replaces the CPU kernels by them, so that everything above the kernels, including autograd
and every test of an operator, runs on them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .process import Fields, KernelProcess, whole

SUM_DTYPE = {torch.float64: torch.float64}  # of gradients that kernels sum; float32 for all others


class Operator:
    """An operator and its backward."""

    name: str
    point_tensors: Sequence[str]  # kPointTensors in csrc

    def __init__(self, process: KernelProcess) -> None:
        self.process = process

    def fields(self, direction: str, value: Tensor, *rest) -> Fields:
        """The request for a call with these arguments, without its buffers."""
        raise NotImplementedError

    def output_shape(self, value: Tensor, points: Tensor) -> Sequence[int]:
        """Shape of the output, given the value and the first point tensor."""
        raise NotImplementedError

    def forward(self, value: Tensor, *rest) -> Tensor:
        """Forward in kernel.h."""
        points = [argument for argument in rest if isinstance(argument, Tensor)]
        output = value.new_empty(self.output_shape(value, points[0]))
        if output.numel() > 0:
            buffers = self._inputs(value.contiguous(), points) | {"output": whole("output", output)}
            self.process.call(self.fields("forward", value, *rest), buffers)
        return output

    def backward(self, grad_output: Tensor, value: Tensor, *rest) -> tuple[Tensor, ...]:
        """Backward in kernel.h."""
        rest, needs = rest[: -1 - len(self.point_tensors)], rest[-1 - len(self.point_tensors) :]
        points = [argument for argument in rest if isinstance(argument, Tensor)]
        fields = self.fields("backward", value, *rest)
        sum_dtype = SUM_DTYPE.get(value.dtype, torch.float32)
        grad_sum = torch.zeros(value.shape, dtype=sum_dtype) if needs[0] else value.new_empty(0)
        grad_points = [
            torch.zeros(tensor.shape if needed else (0,), dtype=tensor.dtype)
            for tensor, needed in zip(points, needs[1:], strict=True)
        ]
        if any(needs) and grad_output.numel() > 0 and value.numel() > 0 and fields["group_points"] > 0:
            buffers = self._inputs(value.contiguous() if any(needs[1:]) else value[:0], points)
            buffers["grad_output"] = whole("input", grad_output.contiguous())
            if needs[0]:
                buffers["grad_value"] = whole("sum", grad_sum)
            for name, gradient, needed in zip(self.point_tensors, grad_points, needs[1:], strict=True):
                if needed:
                    buffers[f"grad_{name}"] = whole("output", gradient)
            self.process.call(fields, buffers)
            if needs[1] and fields["unused_point_elements"] > 0 and not self.process.writes_unused:
                # kernel.h does it before the kernel, which does not write there.
                grad_points[0][..., -fields["unused_point_elements"] :] = 0
        return grad_sum.to(value.dtype), *grad_points

    def _inputs(self, value: Tensor, points: Sequence[Tensor]) -> dict:
        named = zip(self.point_tensors, points, strict=True)
        return {"value": whole("input", value)} | {name: whole("input", tensor.contiguous()) for name, tensor in named}


class DCNv4(Operator):
    """`flash_internimage::dcnv4`."""

    name = "dcnv4"
    point_tensors = ("offset_mask",)

    def fields(
        self, direction, value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center
    ) -> Fields:
        batch, height, width, channels = value.shape
        points = kernel_size[0] * kernel_size[1] - int(remove_center)
        axes = {
            name: [value.shape[1 + i], offset_mask.shape[1 + i], kernel_size[i], stride[i], padding[i], dilation[i]]
            for i, name in enumerate(["height", "width"])
        }
        return {
            "operator": self.name, "direction": direction, "value_dtype": value.dtype, "points_dtype": offset_mask.dtype,
            "batch": batch, "input_cells": height * width, "outputs": offset_mask.shape[1] * offset_mask.shape[2],
            "groups": groups, "group_channels": channels // groups, "group_points": points,
            "most_parts": height, "unused_point_elements": offset_mask.shape[3] - 3 * points * groups, **axes,
            "offset_mask_channels": offset_mask.shape[3], "offset_scale": offset_scale, "remove_center": int(remove_center),
        }  # fmt: skip

    def output_shape(self, value: Tensor, points: Tensor) -> Sequence[int]:
        return [*points.shape[:3], value.shape[3]]


class MultiScaleDeformableAttention(Operator):
    """`flash_internimage::ms_deform_attn`."""

    name = "ms_deform_attn"
    point_tensors = ("sampling_locations", "attention_weights")

    def fields(
        self, direction: str, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor | None = None
    ) -> Fields:
        batch, tokens, heads, channels = value.shape
        _, queries, _, levels, points, _ = locations.shape
        return {
            "operator": self.name, "direction": direction, "value_dtype": value.dtype, "points_dtype": locations.dtype,
            "batch": batch, "input_cells": tokens, "outputs": queries,
            "groups": heads, "group_channels": channels, "group_points": levels * points,
            "most_parts": levels, "unused_point_elements": 0,
            "points": points, "spatial_shapes": list(spatial_shapes),
        }  # fmt: skip

    def output_shape(self, value: Tensor, points: Tensor) -> Sequence[int]:
        return [value.shape[0], points.shape[1], value.shape[2] * value.shape[3]]


def operators(process: KernelProcess) -> dict[str, Callable]:
    """The operators on the kernels of `process`, by their names."""
    functions = {}
    for operator in (DCNv4(process), MultiScaleDeformableAttention(process)):
        functions |= {operator.name: operator.forward, f"{operator.name}_backward": operator.backward}
    return functions


@contextlib.contextmanager
def installed(functions: dict[str, Callable]) -> Iterator[None]:
    """CPU tensors go to these functions instead of the CPU kernels."""
    library = torch.library.Library("flash_internimage", "IMPL")
    try:
        for name, function in functions.items():
            library.impl(name, function, "CPU", allow_override=True)
        yield
    finally:
        library._destroy()
