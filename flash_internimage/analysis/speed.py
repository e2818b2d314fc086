"""Measures the speed and the peak memory of a detector, and the time that each of its parts takes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from flash_internimage.engine.memory import peak_memory, reset_peak_memory
from flash_internimage.precision import DTYPES

from .parts import part_of_module, sum_by_part


@dataclass(frozen=True)
class Mode:
    """How a model is run.

    Attributes:
        batch: images per batch.
        precision: a key of ``precision.DTYPES``; autocast is used for all but fp32.
        compiled: whether ``compile_parts`` was applied.
    """

    batch: int
    precision: str
    compiled: bool


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one batch.

    Attributes:
        seconds: median time.
        peak_bytes: peak memory; None if unavailable.
        by_part: mean seconds in each part.
    """

    seconds: float
    peak_bytes: int | None
    by_part: dict[str, float]


def measure(model: nn.Module, size: Sequence[int], mode: Mode, runs: int) -> Measurement:
    """Measure a model on random images, after one run to warm up.

    Args:
        size: height and width of the images, in pixels.
        runs: how many times the batch is measured.
    """
    device = next(model.parameters()).device
    height, width = size
    image = (torch.rand(3, height, width) * 255).to(device)
    batch = [{"image": image, "height": height, "width": width} for _ in range(mode.batch)]
    half = mode.precision != "fp32"
    times = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=DTYPES[mode.precision], enabled=half):
        model(batch)
        can_reset = reset_peak_memory(device)
        for _ in range(runs):
            start = now(device)
            model(batch)
            times.append(now(device) - start)
        peak = peak_memory(device) if can_reset else None
        with timed_modules(model, device) as seconds:
            for _ in range(runs):
                model(batch)
    by_part = sum_by_part(model, {path: spent / runs for path, spent in seconds.items()})
    return Measurement(statistics.median(times), peak, by_part)


@contextlib.contextmanager
def timed_modules(model: nn.Module, device: torch.device) -> Iterator[dict[str, float]]:
    """Sum up the seconds inside each module of :func:`part_of_module`, and under ``""`` those in the model."""
    seconds: defaultdict[str, float] = defaultdict(float)
    starts: dict[str, float] = {}

    def started(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            starts[path] = now(device)

        return hook

    def ended(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            seconds[path] += now(device) - starts[path]

        return hook

    handles = []
    for path in ("", *part_of_module(model)):
        module = model.get_submodule(path)
        handles += [module.register_forward_pre_hook(started(path)), module.register_forward_hook(ended(path))]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def now(device: torch.device) -> float:
    """Wait for the GPU and return the time in seconds.

    On a CPU with one thread it is the CPU time of this process, which other programs on the machine do not disturb.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()
