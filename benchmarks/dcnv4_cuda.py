"""Time of DCNv4 on a GPU, compared with PyPI's DCNv4 1.0.0.post2 in the same run, if that is installed.

    pip install --no-build-isolation DCNv4==1.0.0.post2
    python benchmarks/dcnv4_cuda.py --output benchmarks/results/dcnv4_cuda.md

The shapes are those of all stages of FlashInternImage-T, S, B and L with batch sizes 1, 2 and 8, for an 800 x 1344 image
(800 x 1333, padded) and for 800 x 1280, for which the peer has tuned entries. Offsets are drawn from N(0, 1) in pixels and
rounded to odd multiples of 1/32: exact in every dtype, and on no border between pixels, where gradients jump. Results are
compared with float64. If the peer fails, the table has the reason instead of a time; if it cannot be imported, a line above the
table has the reason.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from measuring_cuda import DTYPES, LEGEND, Candidate, Problem, Report, header, machine, reason, require_gpu
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


def peer_obstacle() -> str | None:
    """Why DCNv4 from PyPI cannot be imported; None if it can."""
    try:
        import DCNv4.functions  # noqa: F401
    except NotImplementedError:  # raised without a text for compute capabilities after 9.0
        return "it refuses compute capability {}.{}".format(*torch.cuda.get_device_capability())
    except Exception as error:  # importing it runs CUDA code
        return reason(error)
    return None


def peer(groups: int) -> Candidate:
    """DCNv4 from PyPI."""
    from DCNv4.functions import DCNv4Function

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
        candidates = [peer(shape.groups)] if with_peer else []
        for dtype in options.dtypes:
            yield Problem(shape.name, dtype, shape.draw, ours(shape.groups), candidates)


def main() -> int:
    options = parse()
    require_gpu("dcnv4_cuda")
    obstacle = "--no-peer was given" if options.no_peer else peer_obstacle()
    report = Report(options.output, options.seconds)
    report.write(f"{machine()}\n\n{LEGEND}\n")
    if obstacle is not None:
        report.write(f"DCNv4 1.0.0.post2 was not measured: {obstacle}.\n")
    report.write(header([] if obstacle else [PEER]))
    return report.measure(problems(options, with_peer=obstacle is None), GOALS)


if __name__ == "__main__":
    sys.exit(main())
