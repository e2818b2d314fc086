"""The operators on emulated CUDA kernels: what `csrc/*/*_cuda.cu` does with tensors, around a program that has none.

`installed(operators(emulator))` puts them in the place of the CPU kernels, so that everything above the kernels, autograd
among it, and every test of an operator, runs on them.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from . import build

SUM_DTYPE = {torch.float64: torch.float64}  # of gradients that atomics add up; float32 for all others


class EmulatorError(RuntimeError):
    """A kernel did what a GPU would not forgive."""


@dataclass(frozen=True)
class Device:
    """Properties of a GPU. So few multiprocessors that even small problems give each block several units."""

    multiprocessors: int = 1
    threads_per_multiprocessor: int = 2048
    shared_bytes_per_multiprocessor: int = 164 * 1024
    shared_bytes_per_block: int = 48 * 1024
    blocks_per_grid: int = 2**31 - 1


@dataclass(frozen=True)
class Buffer:
    """Memory of a call. `parts` are pairs of an offset in bytes and a tensor: what an input holds, an output returns."""

    role: str  # input, output or sum; see request.h
    bytes: int
    parts: Sequence[tuple[int, Tensor]]
    misalignment: int = 0

    def __str__(self) -> str:
        parts = ";".join(f"{offset},{part.nbytes}" for offset, part in self.parts)
        return f"{self.role}:{self.bytes}:{self.misalignment}:{parts}"


def whole(role: str, tensor: Tensor) -> Buffer:
    """A buffer of one tensor, aligned as the tensor is."""
    return Buffer(role, tensor.nbytes, [(0, tensor)] if tensor.nbytes else [], tensor.data_ptr() % 16)


def program(variant: build.Variant) -> Path:
    """The compiled program, for a test, which is skipped where it cannot be built.

    CUDA_EMULATOR_PROGRAM names another: of a mutant (mutants.py).
    """
    obstacle = build.obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    named = os.environ.get("CUDA_EMULATOR_PROGRAM")
    return Path(named) if named else build.build(variant)


class Emulator:
    """A process of the program; one that has ended is replaced.

    Args:
        executable: what build.py built.
        device: the GPU that launches are planned for.
        index_bits: 32 or 64 for the kernels of that index type, 0 for those that the sizes ask for.
        order: seed of the order in which threads take turns.
    """

    def __init__(self, executable: Path, device: Device | None = None, index_bits: int = 0, order: int = 0) -> None:
        self.executable = executable
        self.device = device or Device()
        self.index_bits = index_bits
        self.order = order
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "Emulator":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._errors.close()
            self._process = None

    def _running(self) -> subprocess.Popen:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
            environment = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "PATH": "/usr/bin:/bin"}
            self._process = subprocess.Popen(
                [self.executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        return self._process

    def call(self, fields: dict[str, object], buffers: dict[str, Buffer], blocks: tuple[int, int] = (0, 2**32 - 1)) -> None:
        """Run one kernel, and write what its outputs hold into their tensors.

        Raises:
            EmulatorError: the report of the sanitizers, or of the emulator itself.
        """
        line = {**fields, **asdict(self.device), "index_bits": self.index_bits, "order": self.order}
        line |= {"first_block": blocks[0], "last_block": blocks[1]}
        line |= {f"buffer.{name}": buffer for name, buffer in buffers.items()}
        process = self._running()
        try:
            process.stdin.write((" ".join(f"{name}={value}" for name, value in line.items()) + "\n").encode())
            for buffer in buffers.values():
                for _, part in buffer.parts if buffer.role == "input" else ():
                    process.stdin.write(_bytes(part))
            process.stdin.flush()
        except BrokenPipeError:
            pass
        if process.stdout.readline() != b"done\n":
            raise EmulatorError(self._report())
        for buffer in buffers.values():
            for _, part in buffer.parts if buffer.role != "input" else ():
                answer = bytearray(process.stdout.read(part.nbytes))
                part.copy_(torch.frombuffer(answer, dtype=part.dtype).view(part.shape))

    def _report(self) -> str:
        """What the process had to say before it ended."""
        self._process.wait()
        self._errors.seek(0)
        report = self._errors.read().decode(errors="replace")
        with contextlib.suppress(BrokenPipeError):
            self.close()
        self._process = None
        return report or "the emulator ended without a word"


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _numbers(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)


def _sum_like(value: Tensor) -> Tensor:
    return torch.zeros(value.shape, dtype=SUM_DTYPE.get(value.dtype, torch.float32))


class DCNv4:
    """`flash_internimage::dcnv4` and its backward."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    def fields(
        self, direction, value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center
    ) -> dict[str, object]:
        axes = {
            name: _numbers([value.shape[1 + i], offset_mask.shape[1 + i], kernel_size[i], stride[i], padding[i], dilation[i]])
            for i, name in enumerate(["height", "width"])
        }
        return {
            "operator": "dcnv4", "direction": direction, "value_dtype": _name(value.dtype),
            "points_dtype": _name(offset_mask.dtype), "batch": value.shape[0], **axes, "groups": groups,
            "group_channels": value.shape[3] // groups, "points": kernel_size[0] * kernel_size[1] - int(remove_center),
            "offset_mask_channels": offset_mask.shape[3], "offset_scale": offset_scale, "remove_center": int(remove_center),
        }  # fmt: skip

    def forward(self, value: Tensor, offset_mask: Tensor, *settings) -> Tensor:
        """As forward_cuda in csrc/dcnv4/dcnv4_cuda.cu."""
        output = value.new_empty(*offset_mask.shape[:3], value.shape[3])
        if output.numel() > 0:
            self.emulator.call(
                self.fields("forward", value, offset_mask, *settings),
                {
                    "value": whole("input", value.contiguous()),
                    "offset_mask": whole("input", offset_mask.contiguous()),
                    "output": whole("output", output),
                },
            )
        return output

    def backward(self, grad_output: Tensor, value: Tensor, offset_mask: Tensor, *settings) -> tuple[Tensor, Tensor]:
        """As backward_cuda in csrc/dcnv4/dcnv4_cuda.cu."""
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
            self.emulator.call(self.fields("backward", value, offset_mask, *settings), buffers)
            if needs_grad_offset_mask:
                kernel_size, groups, remove_center = settings[0], settings[4], settings[6]
                used = 3 * (kernel_size[0] * kernel_size[1] - int(remove_center)) * groups
                grad_offset_mask[..., used:] = 0  # before the kernel in C++, which leaves the tail alone
        return grad_sum.to(value.dtype), grad_offset_mask


class MultiScaleDeformableAttention:
    """`flash_internimage::ms_deform_attn` and its backward."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    def fields(self, direction: str, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor) -> dict[str, object]:
        batch, tokens, heads, channels = value.shape
        return {
            "operator": "ms_deform_attn", "direction": direction, "value_dtype": _name(value.dtype),
            "points_dtype": _name(locations.dtype), "batch": batch, "tokens": tokens, "queries": locations.shape[1],
            "heads": heads, "head_channels": channels, "points": locations.shape[4],
            "spatial_shapes": _numbers(spatial_shapes),
        }  # fmt: skip

    def forward(self, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        """As forward_cuda in csrc/ms_deform_attn/ms_deform_attn_cuda.cu."""
        output = value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
        if output.numel() > 0:
            self.emulator.call(
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
        """As backward_cuda in csrc/ms_deform_attn/ms_deform_attn_cuda.cu."""
        wants_points = needs_grad_locations or needs_grad_weights
        grad_sum = _sum_like(value) if needs_grad_value else value.new_empty(0)
        grad_locations = torch.zeros(locations.shape if needs_grad_locations else (0,), dtype=locations.dtype)
        grad_weights = torch.zeros(weights.shape if needs_grad_weights else (0,), dtype=weights.dtype)
        if grad_output.numel() > 0 and weights.numel() > 0 and (needs_grad_value or wants_points):
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
            self.emulator.call(self.fields("backward", value, spatial_shapes, locations), buffers)
        return grad_sum.to(value.dtype), grad_locations, grad_weights


def operators(emulator: Emulator) -> dict[str, Callable]:
    """The emulated operators by their names."""
    dcnv4, attention = DCNv4(emulator), MultiScaleDeformableAttention(emulator)
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
