"""What a call of an operator costs from Python to the kernel and back, beside torch.nn.functional.grid_sample's.

    OMP_NUM_THREADS=1 python benchmarks/call_overhead_cpu.py

Inputs are so small that the work does not count.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measuring import machine

from flash_internimage.ops import dcnv4, ms_deform_attn

CALLS, ROUNDS = 300, 40


def microseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least mean over many calls, which other programs on the machine disturb least; calls take turns."""
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
    print(f"{machine()}\n\nMicroseconds a call; in brackets how many times grid_sample's.\n")
    print("| | " + " | ".join(calls) + " |\n| --- |" + " ---: |" * len(calls))
    for training in (False, True):
        for differentiated in (features, value, tokens):
            differentiated.requires_grad_(training)
        times = microseconds(calls)
        cells = [f"{time:.1f} ({time / times['grid_sample']:.1f}x)" for time in times.values()]
        print(f"| {'forward, recorded for a backward' if training else 'forward'} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
