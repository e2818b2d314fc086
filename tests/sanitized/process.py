"""A process that runs kernels on request, and the format of requests (request.h)."""

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
    """Raised for an invalid access or race; the message is the report of the sanitizer or of the emulator."""


@dataclass(frozen=True)
class Buffer:
    """A buffer of a call. `parts` are pairs (offset in bytes, tensor): the contents of an input, the results of an output."""

    role: str  # input, output or sum; see request.h
    bytes: int
    parts: Sequence[tuple[int, Tensor]]
    misalignment: int = 0

    def __str__(self) -> str:
        parts = ";".join(f"{offset},{part.nbytes}" for offset, part in self.parts)
        return f"{self.role}:{self.bytes}:{self.misalignment}:{parts}"


def whole(role: str, tensor: Tensor) -> Buffer:
    """A buffer for one tensor, with the tensor's alignment."""
    return Buffer(role, tensor.nbytes, [(0, tensor)] if tensor.nbytes else [], tensor.data_ptr() % 16)


Fields = dict[str, object]  # of a request: everything except its buffers


def program(variant: build.Variant) -> Path:
    """The path of the compiled program; skips the test if it cannot be built here."""
    obstacle = build.obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    return build.executable(variant)


class KernelProcess:
    """A process of a program. It is restarted if it has ended.

    Args:
        executable: the path that build.py returned.
    """

    writes_unused = False  # kWritesUnused in csrc

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
        """Whether the program is compiled for these dtypes of value and point tensors."""
        return True

    def vary(self, choose: random.Random) -> str:
        """Choose everything at random that must not change results; return a description."""
        raise NotImplementedError

    def own_fields(self, fields: Fields) -> Fields:
        """The fields of a request that depend on the kind of program; `fields` describe the computation."""
        raise NotImplementedError

    def _running(self) -> subprocess.Popen:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
            environment = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "PATH": "/usr/bin:/bin"}
            self._process = subprocess.Popen(
                [*build.RUNNER, self.executable],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
        return self._process

    def call(self, fields: Fields, buffers: dict[str, Buffer]) -> None:
        """Run one kernel and copy its outputs into their tensors.

        Raises:
            KernelError: the kernel made an invalid access.
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
        """The error output of the process, after it has ended."""
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
    # A copy, because a tensor of one element is contiguous with any strides, which make view(uint8) fail.
    plain = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return plain.view(torch.uint8).numpy().tobytes()
