"""Time and peak memory of both operators on the CPU, compared with implementations from PyTorch's and torchvision's operators.

    OMP_NUM_THREADS=1 python benchmarks/operators_cpu.py
    OMP_NUM_THREADS=2 python benchmarks/operators_cpu.py --dtype bfloat16 --no-peers

The shapes are those of an 800 x 1216 image with batch size 1. DCNv4: the four stages of FlashInternImage-T, with offsets drawn
from N(0, 1) in pixels. Deformable attention: DINO's encoder (one query per pixel of four levels) and decoder (900 queries).
Peers get inputs in their own layout, so that only their operator is timed:

    deform_conv2d   torchvision's, with a depthwise weight of ones
    grid_sample     DCNv4: torch.nn.functional.grid_sample for each of the 9 points, groups folded into the batch;
                    attention: one grid_sample per level, heads folded into the batch, as in Deformable DETR's PyTorch version

"copy" is the time to copy the operator's inputs once and to fill its output: a lower bound on memory traffic.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from measuring import check_equal, machine, median_seconds, peak_megabytes, with_backward
from problems import by_grid_sample as attention_by_grid_sample
from problems import draw as draw_attention
from problems import levels, pixel_centers
from torch import Tensor
from torchvision.ops import deform_conv2d

from flash_internimage.ops import dcnv4, ms_deform_attn

PEERS = ("deform_conv2d", "grid_sample")


class Candidate(NamedTuple):
    function: Callable[..., Tensor]
    inputs: list[Tensor]


class Case(NamedTuple):
    """One shape: this project's operator and its peers, with outputs in the same layout."""

    name: str
    ours: Candidate
    peers: dict[str, Candidate]


STAGES = {"res2": (200, 304, 4), "res3": (100, 152, 8), "res4": (50, 76, 16), "res5": (25, 38, 32)}
GROUP_CHANNELS = 16
POINTS = 9


def dcnv4_case(stage: str) -> Case:
    height, width, groups = STAGES[stage]
    value = torch.randn(1, height, width, groups * GROUP_CHANNELS)
    offset_mask = torch.randn(1, height, width, (27 * groups + 7) // 8 * 8)

    def ours(value: Tensor, offset_mask: Tensor) -> Tensor:
        return dcnv4(value, offset_mask, 3, padding=1, groups=groups)

    def by_deform_conv2d(value: Tensor, offsets: Tensor, modulations: Tensor) -> Tensor:
        weight = value.new_ones(value.shape[1], 1, 3, 3)
        return deform_conv2d(value, offsets, weight, padding=1, mask=modulations).permute(0, 2, 3, 1)

    def by_grid_sample(maps: Tensor, locations: Tensor, modulations: Tensor) -> Tensor:
        samples = F.grid_sample(maps, locations, mode="bilinear", padding_mode="zeros", align_corners=False)
        return (samples.unflatten(3, (-1, POINTS)) * modulations[:, None]).sum(dim=-1).flatten(0, 1).permute(1, 2, 0)[None]

    return Case(
        f"DCNv4 {stage}",
        Candidate(ours, [value, offset_mask]),
        {
            "deform_conv2d": Candidate(by_deform_conv2d, deform_conv2d_inputs(value, offset_mask, groups)),
            "grid_sample": Candidate(by_grid_sample, grid_sample_inputs(value, offset_mask, groups)),
        },
    )


def deform_conv2d_inputs(value: Tensor, offset_mask: Tensor, groups: int) -> list[Tensor]:
    """Convert value, offsets and modulations to deform_conv2d's layout: channels first, points row by row, y before x."""
    height, width = value.shape[1:3]
    points = offset_mask[..., : 27 * groups].unflatten(3, (groups, 27))
    offsets = points[..., :18].unflatten(4, (3, 3, 2)).transpose(4, 5).flip(-1)
    modulations = points[..., 18:].unflatten(4, (3, 3)).transpose(4, 5)
    return [
        value.permute(0, 3, 1, 2).contiguous(),
        offsets.reshape(1, height, width, -1).permute(0, 3, 1, 2).contiguous(),
        modulations.reshape(1, height, width, -1).permute(0, 3, 1, 2).contiguous(),
    ]


def grid_sample_inputs(value: Tensor, offset_mask: Tensor, groups: int) -> list[Tensor]:
    """Convert to feature maps (G, D, H, W), locations (G, H, W * 9, 2) in -1..1 and modulations (G, H, W, 9)."""
    height, width = value.shape[1:3]
    maps = value[0].unflatten(2, (groups, GROUP_CHANNELS)).permute(2, 3, 0, 1).contiguous()
    points = offset_mask[0, ..., : 27 * groups].unflatten(2, (groups, 27)).permute(2, 0, 1, 3)
    offsets = points[..., :18].unflatten(3, (POINTS, 2))
    steps = torch.arange(3) - 1
    taps = torch.stack([steps.repeat_interleave(3), steps.repeat(3)], dim=-1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1)[:, :, None] + taps + offsets
    locations = (2 * pixels + 1) / torch.tensor([width, height]) - 1
    return [maps, locations.reshape(groups, height, width * POINTS, 2).to(value), points[..., 18:].contiguous()]


LEVELS = levels(800, 1216)


def attention_case(name: str, reference_points: Tensor) -> Case:
    """Build the case of one query per reference point."""
    inputs = draw_attention(LEVELS, reference_points)

    def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, LEVELS, locations, weights)

    return Case(
        f"attention, {name}",
        Candidate(ours, inputs),
        {"grid_sample": Candidate(partial(attention_by_grid_sample, LEVELS), inputs)},
    )


def copy(inputs: list[Tensor], output: Tensor) -> None:
    """Copy the inputs and fill an output."""
    for tensor in inputs:
        tensor.clone()
    torch.zeros_like(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-peers", action="store_true", help="measure only this project's operators and the copy")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)

    print(f"{machine()}, {options.dtype}\n")
    print("Milliseconds of CPU time per thread, medians, in parentheses relative to this project; then peak memory in MB.\n")
    peers = " | ".join(PEERS)
    print(f"| shape | pass | this project | copy | {peers} | peak memory, this project | {peers} |")
    print("| --- | --- |" + " ---: |" * 7)
    cases = [dcnv4_case(stage) for stage in STAGES]
    cases += [attention_case("encoder", pixel_centers(LEVELS)), attention_case("decoder", torch.rand(900, 2))]
    for case in cases:
        peers = {} if options.no_peers else case.peers
        check_equal(case.ours.function(*case.ours.inputs), {n: p.function(*p.inputs) for n, p in peers.items()})
        candidates = {"ours": case.ours, **peers}
        cast = {name: Candidate(c.function, [t.to(dtype) for t in c.inputs]) for name, c in candidates.items()}
        passes = {
            "forward": {name: lambda c=c: c.function(*c.inputs) for name, c in cast.items()},
            "forward + backward": {name: with_backward(*c) for name, c in cast.items()},
        }
        ours = cast["ours"]
        output = ours.function(*ours.inputs)
        for name, calls in passes.items():
            times = median_seconds({**calls, "copy": lambda: copy(ours.inputs, output)}, options.repeats)  # noqa: B023
            peaks = {candidate: peak_megabytes(call) for candidate, call in calls.items()}
            cells = [case.name, name, f"{1e3 * times['ours']:.2f}", f"{1e3 * times['copy']:.2f}"]
            cells += [
                f"{1e3 * times[peer]:.0f} ({times[peer] / times['ours']:.0f}x)" if peer in times else "" for peer in PEERS
            ]
            cells += [f"{peaks[candidate]:.0f}" if candidate in peaks else "" for candidate in ("ours", *PEERS)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
