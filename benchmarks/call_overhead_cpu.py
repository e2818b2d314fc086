"""Overhead of a call of each operator, from Python to the kernel and back, compared with torch.nn.functional.grid_sample.

    OMP_NUM_THREADS=1 python benchmarks/call_overhead_cpu.py

Inputs are so small that the time of the kernel is negligible.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measuring import machine

from flash_internimage.ops import dcnv4, ms_deform_attn

CALLS, ROUNDS = 300, 40


def microseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return microseconds per call: the minimum over rounds, least affected by other processes; functions alternate."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], (time.perf_counter() - start) / CALLS)
    return {name: 1e6 * seconds for name, seconds in best.items()}


def main() -> None:
    features, grid = torch.rand(1, 4, 4, 4), torch.rand(1, 4, 4, 2)
    value, offset_mask = torch.rand(1, 4, 4, 4), torch.rand(1, 4, 4, 32)
    tokens, locations, weights = torch.rand(1, 16, 1, 4), torch.rand(1, 4, 1, 1, 4, 2), torch.rand(1, 4, 1, 1, 4)
    calls = {
        "grid_sample": lambda: F.grid_sample(features, grid, align_corners=False),
        "dcnv4": lambda: dcnv4(value, offset_mask, 3, padding=1),
        "ms_deform_attn": lambda: ms_deform_attn(tokens, [(4, 4)], locations, weights),
    }
    print(f"{machine()}\n\nMicroseconds per call; in parentheses relative to grid_sample.\n")
    print("| | " + " | ".join(calls) + " |\n| --- |" + " ---: |" * len(calls))
    for training in (False, True):
        for differentiated in (features, value, tokens):
            differentiated.requires_grad_(training)
        times = microseconds(calls)
        cells = [f"{time:.1f} ({time / times['grid_sample']:.1f}x)" for time in times.values()]
        print(f"| {'forward, with autograd' if training else 'forward'} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
