"""Time of DCNv4 on a GPU, compared with PyPI's DCNv4 1.0.0.post2 in the same run, if that is installed.

    pip install --no-build-isolation DCNv4==1.0.0.post2
    python benchmarks/dcnv4_cuda.py --output benchmarks/results/dcnv4_cuda.md

The shapes are those of all stages of FlashInternImage-T, S, B and L with batch sizes 1, 2 and 8, for an 800 x 1344 image
(800 x 1333, padded) and for 800 x 1280, for which the peer has tuned entries. Offsets are drawn from N(0, 1) in pixels and
rounded to odd multiples of 1/32: exact in every dtype, and on no border between pixels, where gradients jump. Results are
compared with float64. If the peer fails, the table has the reason instead of a time.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from measuring_cuda import DTYPES, LEGEND, Candidate, Problem, Report, header, machine, require_gpu
from problems import on_grid
from torch import Tensor

from flash_internimage.ops import dcnv4

GROUPS = {"T": (4, 8, 16, 32), "S": (5, 10, 20, 40), "B": (7, 14, 28, 56), "L": (10, 20, 40, 80)}
STRIDES = (4, 8, 16, 32)
IMAGES = {"800x1333": (800, 1344), "800x1280": (800, 1280)}
BATCHES = (1, 2, 8)
GROUP_CHANNELS = 16
PEER = "DCNv4"
GOALS = {"forward": 1.3, "backward": 1.5}


class Shape(NamedTuple):
    name: str
    batch: int
    height: int
    width: int
    groups: int

    def draw(self, dtype: torch.dtype, device: str = "cuda") -> tuple[Tensor, Tensor]:
        """Draw value and offset_mask."""
        pixels = (self.batch, self.height, self.width)
        value = torch.randn(*pixels, self.groups * GROUP_CHANNELS, device=device, dtype=dtype)
        offset_mask = torch.randn(*pixels, (27 * self.groups + 7) // 8 * 8, device=device)
        used = offset_mask[..., : 27 * self.groups].unflatten(3, (self.groups, 27))
        used[..., :18] = on_grid(used[..., :18].clamp(-7.9, 7.9))
        return value, offset_mask.to(dtype)


def shapes(images: Sequence[str], batches: Sequence[int]) -> Iterator[Shape]:
    """Yield the shapes image by image, and small batches first: a time limit cuts off the last ones."""
    for image in images:
        height, width = IMAGES[image]
        for batch in batches:
            for size, groups_of_stages in GROUPS.items():
                for stage, (stride, groups) in enumerate(zip(STRIDES, groups_of_stages, strict=True), start=2):
                    name = f"{size} res{stage}, {batch} x {image}"
                    yield Shape(name, batch, -(-height // stride), -(-width // stride), groups)


def ours(groups: int) -> Candidate:
    return Candidate("this project", lambda value, offset_mask: dcnv4(value, offset_mask, 3, padding=1, groups=groups))


def peer(groups: int) -> Candidate | None:
    """DCNv4 from PyPI, or None if it is not installed, or refuses this GPU when it is imported (those after an H100)."""
    try:
        from DCNv4.functions import DCNv4Function
    except (ImportError, NotImplementedError):
        return None
    window, images_at_once = (3, 3, 1, 1, 1, 1, 1, 1), 256

    def call(value: Tensor, offset_mask: Tensor) -> Tensor:
        return DCNv4Function.apply(value, offset_mask, *window, groups, GROUP_CHANNELS, 1.0, images_at_once, 0)

    return Candidate(PEER, call)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--no-peer", action="store_true", help="measure only this project's operator")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="leave out the shapes that remain after this time")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    return parser.parse_args(arguments)


def problems(options: argparse.Namespace, with_peer: bool) -> Iterator[Problem]:
    for shape in shapes(options.images, options.batches):
        candidate = peer(shape.groups) if with_peer else None
        for dtype in options.dtypes:
            yield Problem(shape.name, dtype, shape.draw, ours(shape.groups), [candidate] if candidate else [])


def main() -> int:
    options = parse()
    require_gpu("dcnv4_cuda")
    with_peer = not options.no_peer and peer(1) is not None
    report = Report(options.output, options.seconds)
    report.write(f"{machine()}\n\n{LEGEND}\n")
    if not with_peer:
        report.write("DCNv4 1.0.0.post2 was not measured.\n")
    report.write(header([PEER] if with_peer else []))
    return report.measure(problems(options, with_peer), GOALS)


if __name__ == "__main__":
    sys.exit(main())
