"""A program of kernels that answers requests (request.h), and what it is told."""

import contextlib
import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from . import build


class KernelError(RuntimeError):
    """A kernel did what it must not; the message is the report of a sanitizer or of the program itself."""


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


Fields = dict[str, object]  # of a request: what a kernel is told beside its buffers


def program(variant: build.Variant) -> Path:
    """The compiled program, for a test, which is skipped where it cannot be built."""
    obstacle = build.obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    return build.executable(variant)


class KernelProcess:
    """A process of a program; one that has ended is replaced.

    Args:
        executable: what build.py built.
    """

    def __init__(self, executable: Path) -> None:
        self.executable = executable
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "KernelProcess":
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

    def runs(self, value_dtype: torch.dtype, points_dtype: torch.dtype) -> bool:
        """Whether the program is compiled for values and points of these dtypes."""
        return True

    def vary(self, choose: random.Random) -> str:
        """Draw whatever must not change results; says what."""
        raise NotImplementedError

    def own_fields(self, fields: Fields) -> Fields:
        """What requests of this kind of program have beside `fields`, which say what to compute."""
        raise NotImplementedError

    def _running(self) -> subprocess.Popen:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
            environment = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "PATH": "/usr/bin:/bin"}
            self._process = subprocess.Popen(
                [self.executable], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
            )
        return self._process

    def call(self, fields: Fields, buffers: dict[str, Buffer]) -> None:
        """Run one kernel, and write what its outputs hold into their tensors.

        Raises:
            KernelError: the report.
        """
        line = fields | self.own_fields(fields) | {f"buffer.{name}": buffer for name, buffer in buffers.items()}
        process = self._running()
        try:
            process.stdin.write((" ".join(f"{name}={_text(value)}" for name, value in line.items()) + "\n").encode())
            for buffer in buffers.values():
                for _, part in buffer.parts if buffer.role == "input" else ():
                    process.stdin.write(_bytes(part))
            process.stdin.flush()
        except BrokenPipeError:
            pass
        if process.stdout.readline() != b"done\n":
            raise KernelError(self._report())
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
        return report or "the program ended without a word"


def _text(value: object) -> str:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return ",".join(str(number) for number in value) if isinstance(value, (list, tuple)) else str(value)


def _bytes(tensor: Tensor) -> bytes:
    # A copy, because a tensor of one element is contiguous whatever its strides, and those stop it from being seen as bytes.
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return plain.view(torch.uint8).numpy().tobytes()
