"""The operators on kernels in another process: what `csrc/*/*_cpu.cpp` and `csrc/*/*_cuda.cu` do with tensors.

`installed(operators(process))` puts them in the place of the CPU kernels, so that everything above the kernels, autograd
among it, and every test of an operator, runs on them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .process import Fields, KernelProcess, whole

SUM_DTYPE = {torch.float64: torch.float64}  # of gradients that kernels add up; float32 for all others


def _sum_like(value: Tensor) -> Tensor:
    return torch.zeros(value.shape, dtype=SUM_DTYPE.get(value.dtype, torch.float32))


class DCNv4:
    """`flash_internimage::dcnv4` and its backward."""

    def __init__(self, process: KernelProcess) -> None:
        self.process = process

    def fields(
        self, direction, value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center
    ) -> Fields:
        axes = {
            name: [value.shape[1 + i], offset_mask.shape[1 + i], kernel_size[i], stride[i], padding[i], dilation[i]]
            for i, name in enumerate(["height", "width"])
        }
        return {
            "operator": "dcnv4", "direction": direction, "value_dtype": value.dtype,
            "points_dtype": offset_mask.dtype, "batch": value.shape[0], **axes, "groups": groups,
            "group_channels": value.shape[3] // groups, "points": kernel_size[0] * kernel_size[1] - int(remove_center),
            "offset_mask_channels": offset_mask.shape[3], "offset_scale": offset_scale, "remove_center": int(remove_center),
        }  # fmt: skip

    def forward(self, value: Tensor, offset_mask: Tensor, *settings) -> Tensor:
        """As forward_cpu and forward_cuda in csrc/dcnv4."""
        output = value.new_empty(*offset_mask.shape[:3], value.shape[3])
        if output.numel() > 0:
            self.process.call(
                self.fields("forward", value, offset_mask, *settings),
                {
                    "value": whole("input", value.contiguous()),
                    "offset_mask": whole("input", offset_mask.contiguous()),
                    "output": whole("output", output),
                },
            )
        return output

    def backward(self, grad_output: Tensor, value: Tensor, offset_mask: Tensor, *settings) -> tuple[Tensor, Tensor]:
        """As backward_cpu and backward_cuda in csrc/dcnv4."""
        *settings, needs_grad_value, needs_grad_offset_mask = settings
        grad_sum = _sum_like(value) if needs_grad_value else value.new_empty(0)
        grad_offset_mask = torch.zeros(offset_mask.shape if needs_grad_offset_mask else (0,), dtype=offset_mask.dtype)
        if grad_output.numel() > 0 and value.numel() > 0 and (needs_grad_value or needs_grad_offset_mask):
            buffers = {
                "value": whole("input", value.contiguous() if needs_grad_offset_mask else value[:0]),
                "offset_mask": whole("input", offset_mask.contiguous()),
                "grad_output": whole("input", grad_output.contiguous()),
            }
            if needs_grad_value:
                buffers["grad_value"] = whole("sum", grad_sum)
            if needs_grad_offset_mask:
                buffers["grad_offset_mask"] = whole("output", grad_offset_mask)
            self.process.call(self.fields("backward", value, offset_mask, *settings), buffers)
            if needs_grad_offset_mask:
                kernel_size, groups, remove_center = settings[0], settings[4], settings[6]
                used = 3 * (kernel_size[0] * kernel_size[1] - int(remove_center)) * groups
                grad_offset_mask[..., used:] = 0  # before the kernel in C++, which leaves the tail alone
        return grad_sum.to(value.dtype), grad_offset_mask


class MultiScaleDeformableAttention:
    """`flash_internimage::ms_deform_attn` and its backward."""

    def __init__(self, process: KernelProcess) -> None:
        self.process = process

    def fields(self, direction: str, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor) -> Fields:
        batch, tokens, heads, channels = value.shape
        return {
            "operator": "ms_deform_attn", "direction": direction, "value_dtype": value.dtype,
            "points_dtype": locations.dtype, "batch": batch, "tokens": tokens, "queries": locations.shape[1],
            "heads": heads, "head_channels": channels, "points": locations.shape[4],
            "spatial_shapes": list(spatial_shapes),
        }  # fmt: skip

    def forward(self, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        """As forward_cpu and forward_cuda in csrc/ms_deform_attn."""
        output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        if output.numel() > 0:
            self.process.call(
                self.fields("forward", value, spatial_shapes, locations),
                {
                    "value": whole("input", value.contiguous()),
                    "sampling_locations": whole("input", locations.contiguous()),
                    "attention_weights": whole("input", weights.contiguous()),
                    "output": whole("output", output),
                },
            )
        return output

    def backward(
        self,
        grad_output: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[int],
        locations: Tensor,
        weights: Tensor,
        needs_grad_value: bool,
        needs_grad_locations: bool,
        needs_grad_weights: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As backward_cpu and backward_cuda in csrc/ms_deform_attn."""
        wants_points = needs_grad_locations or needs_grad_weights
        grad_sum = _sum_like(value) if needs_grad_value else value.new_empty(0)
        grad_locations = torch.zeros(locations.shape if needs_grad_locations else (0,), dtype=locations.dtype)
        grad_weights = torch.zeros(weights.shape if needs_grad_weights else (0,), dtype=weights.dtype)
        has_elements = grad_output.numel() > 0 and weights.numel() > 0
        if (has_elements or self.process.takes_empty) and (needs_grad_value or wants_points):
            buffers = {
                "value": whole("input", value.contiguous() if wants_points else value[:0]),
                "sampling_locations": whole("input", locations.contiguous()),
                "attention_weights": whole("input", weights.contiguous()),
                "grad_output": whole("input", grad_output.contiguous()),
            }
            if needs_grad_value:
                buffers["grad_value"] = whole("sum", grad_sum)
            if needs_grad_locations:
                buffers["grad_sampling_locations"] = whole("output", grad_locations)
            if needs_grad_weights:
                buffers["grad_attention_weights"] = whole("output", grad_weights)
            self.process.call(self.fields("backward", value, spatial_shapes, locations), buffers)
        return grad_sum.to(value.dtype), grad_locations, grad_weights


def operators(process: KernelProcess) -> dict[str, Callable]:
    """The operators on the kernels of `process`, by their names."""
    dcnv4, attention = DCNv4(process), MultiScaleDeformableAttention(process)
    return {
        "dcnv4": dcnv4.forward,
        "dcnv4_backward": dcnv4.backward,
        "ms_deform_attn": attention.forward,
        "ms_deform_attn_backward": attention.backward,
    }


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
