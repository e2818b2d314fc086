"""What the benchmarks share: clocks, peak memory, and the line that says what was measured on."""

import ctypes
import gc
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from flash_internimage import _C

Call = Callable[[], object]


def median_seconds(calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Median time of each call after one that does not count. Calls take turns, so that a change in the machine's speed
    affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}


def peak_megabytes(call: Call) -> float:
    """Memory that a call has in use at its peak above what was in use before, results included (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is kept for reuse would hide what the call needs
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: man 5 proc
    before = _resident_megabytes("VmRSS")
    call()
    return max(0.0, _resident_megabytes("VmHWM") - before)


def _resident_megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status).group(1)) / 1024


def with_backward(function: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    """A call of `function` and of the backward to all its inputs."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    grad = torch.randn_like(function(*inputs))
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)


def check_equal(ours: Tensor, peers: Mapping[str, Tensor], tolerance: float = 1e-3) -> None:
    """Peers that compute something else would make a comparison worthless."""
    for name, peer in peers.items():
        difference = (ours - peer).abs().max().item()
        if not difference <= tolerance:
            raise RuntimeError(f"{name}: output should equal this project's, but differs by up to {difference}")


def machine() -> str:
    """One line: processor, threads, versions and the instruction set in use."""
    processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return (
        f"{processor.group(1) if processor else platform.processor()}, {torch.get_num_threads()} thread(s), "
        f"{_C.build_info()['cpu_capability']} kernels, torch {torch.__version__}, Python {platform.python_version()}"
    )
