"""Time of multi-scale deformable attention on a GPU, beside the formulation in plain PyTorch, eager and compiled.

    python benchmarks/ms_deform_attn_cuda.py --output benchmarks/results/ms_deform_attn_cuda.md

The shapes are those of DINO's encoder (one query per pixel of four levels) and decoder (900 queries) for an 800 x 1344 image.
The peers sample each level with torch.nn.functional.grid_sample; "compiled" is torch.compile of that.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from measuring_cuda import DTYPES, LEGEND, Candidate, Problem, Report, header, machine, require_gpu
from problems import by_grid_sample, draw, levels, pixel_centers
from torch import Tensor

from flash_internimage.ops import ms_deform_attn

LEVELS = levels(800, 1344)
PEERS = ("grid_sample", "compiled")
GOALS = {"forward": 1.0, "backward": 1.0}


def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return ms_deform_attn(value, LEVELS, locations, weights)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="leave out the shapes that remain after this time")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    return parser.parse_args(arguments)


def problems(options: argparse.Namespace) -> Iterator[Problem]:
    plain = partial(by_grid_sample, LEVELS)
    functions = {"grid_sample": plain, "compiled": torch.compile(plain, dynamic=False)}
    peers = [Candidate(name, functions[name]) for name in options.peers]
    queries = {"decoder": torch.rand(900, 2, generator=torch.Generator().manual_seed(0)), "encoder": pixel_centers(LEVELS)}
    for batch in options.batches:
        for part, reference_points in queries.items():
            for dtype in options.dtypes:

                def tensors(
                    dtype: torch.dtype, points: Tensor = reference_points, batch: int = batch, device: str = "cuda"
                ) -> list[Tensor]:
                    return [tensor.to(device, dtype) for tensor in draw(LEVELS, points, batch)]

                # After eight graphs of a function, two per problem, torch.compile would silently run it eagerly.
                torch.compiler.reset()
                yield Problem(f"{part}, {batch} x 800x1333", dtype, tensors, Candidate("this project", ours), peers)


def main() -> int:
    options = parse()
    require_gpu("ms_deform_attn_cuda")
    report = Report(options.output, options.seconds)
    report.write(f"{machine()}\n\n{LEGEND}\n")
    report.write(header(options.peers))
    return report.measure(problems(options), GOALS)


if __name__ == "__main__":
    sys.exit(main())
