"""Utilities of the benchmarks: timing, peak memory, and a description of the machine."""

import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flash_internimage import _C
from flash_internimage.engine.memory import peak_memory, reset_peak_memory

Call = Callable[[], object]


def median_seconds(calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Return the median CPU time per thread of each call, after one warm-up call.

    Calls alternate, so that drift affects all of them; CPU time does not include that of other processes. Threads that wait for
    others count as busy.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append((time.process_time() - start) / torch.get_num_threads())
    return {name: statistics.median(measured) for name, measured in times.items()}


def peak_megabytes(call: Call) -> float:
    """Return the peak memory of a call in MiB, relative to the memory in use before it, including its results (Linux only)."""
    device = torch.device("cpu")
    if not reset_peak_memory(device):
        raise RuntimeError("peak_megabytes: the peak RSS can be reset on Linux only")
    before = peak_memory(device)
    call()
    return (peak_memory(device) - before) / 2**20


def with_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    """Return a call of `function` and of its backward for all inputs."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    grad = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)


def check_equal(ours: Tensor, peers: Mapping[str, Tensor], tolerance: float = 1e-3) -> None:
    """Raise an error if a peer's output differs from this project's, since timings would not be comparable."""
    for name, peer in peers.items():
        difference = (ours - peer).abs().max().item()
        if not difference <= tolerance:
            raise RuntimeError(f"{name}: output should equal this project's, but differs by up to {difference}")


def machine() -> str:
    """Describe the machine in one line: processor, threads, instruction set in use, versions."""
    processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return (
        f"{processor.group(1) if processor else platform.processor()}, {torch.get_num_threads()} thread(s), "
        f"{_C.build_info()['cpu_capability']} kernels, torch {torch.__version__}, Python {platform.python_version()}"
    )
