"""Time of DCNv4 on the CPU beside the two ways to compute it with what PyTorch brings, in one run.

    OMP_NUM_THREADS=1 python benchmarks/dcnv4_cpu.py
    OMP_NUM_THREADS=2 python benchmarks/dcnv4_cpu.py --dtype bfloat16 --no-peers

Shapes are the four stages of FlashInternImage-T for an 800 x 1216 image, batch 1; offsets are drawn N(0, 1) in cells.
Peers get inputs in their own layout, so that only their operator is timed:

    deform_conv2d   torchvision's, with a depthwise weight of ones
    grid_sample     each of the 9 points sampled by torch.nn.functional.grid_sample, groups folded into the batch

"memory" is the time to clone value and offset_mask and fill the output: what any implementation has to move.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from flash_internimage import _C
from flash_internimage.ops import dcnv4

STAGES = {"res2": (200, 304, 4), "res3": (100, 152, 8), "res4": (50, 76, 16), "res5": (25, 38, 32)}
GROUP_CHANNELS = 16
POINTS = 9


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median of single calls after one that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def with_backward(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> Callable[[], object]:
    """Forward, and the gradients of all inputs."""
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)


def torchvision_inputs(value: Tensor, offset_mask: Tensor, groups: int) -> list[Tensor]:
    """value, offsets and modulations as deform_conv2d wants them: channels first, points along rows, y before x."""
    height, width = value.shape[1:3]
    points = offset_mask[..., : 27 * groups].unflatten(3, (groups, 27))
    offsets = points[..., :18].unflatten(4, (3, 3, 2)).transpose(4, 5).flip(-1)
    modulations = points[..., 18:].unflatten(4, (3, 3)).transpose(4, 5)
    return [
        value.permute(0, 3, 1, 2).contiguous(),
        offsets.reshape(1, height, width, -1).permute(0, 3, 1, 2).contiguous(),
        modulations.reshape(1, height, width, -1).permute(0, 3, 1, 2).contiguous(),
    ]


def run_torchvision(value: Tensor, offsets: Tensor, modulations: Tensor) -> Tensor:
    weight = value.new_ones(value.shape[1], 1, 3, 3)
    return deform_conv2d(value, offsets, weight, padding=1, mask=modulations)


def grid_sample_inputs(value: Tensor, offset_mask: Tensor, groups: int) -> list[Tensor]:
    """Maps (G, D, H, W), locations (G, H, W * 9, 2) in -1..1 and modulations (G, H, W, 9)."""
    height, width = value.shape[1:3]
    maps = value[0].unflatten(2, (groups, GROUP_CHANNELS)).permute(2, 3, 0, 1).contiguous()
    points = offset_mask[0, ..., : 27 * groups].unflatten(2, (groups, 27)).permute(2, 0, 1, 3)
    offsets = points[..., :18].unflatten(3, (POINTS, 2))
    steps = torch.arange(3) - 1
    taps = torch.stack([steps.repeat_interleave(3), steps.repeat(3)], dim=-1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack([columns, rows], dim=-1)[:, :, None] + taps + offsets
    locations = (2 * cells + 1) / torch.tensor([width, height]) - 1
    return [maps, locations.reshape(groups, height, width * POINTS, 2).to(value), points[..., 18:].contiguous()]


def run_grid_sample(maps: Tensor, locations: Tensor, modulations: Tensor) -> Tensor:
    samples = F.grid_sample(maps, locations, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (samples.unflatten(3, (-1, POINTS)) * modulations[:, None]).sum(dim=-1)


def check_equal(ours: Tensor, others: dict[str, Tensor]) -> None:
    """Peers that compute something else would make the comparison worthless."""
    for name, other in others.items():
        difference = (ours - other).abs().max().item()
        if difference > 1e-3:
            raise RuntimeError(f"{name}: output should equal dcnv4's, but differs by up to {difference}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=15, help="calls of dcnv4; peers get a third of them")
    parser.add_argument("--no-peers", action="store_true", help="time dcnv4 and memory only")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    torch.manual_seed(0)

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {_C.build_info()['cpu_capability']}, {options.dtype}")
    print("milliseconds, medians; in brackets how many times dcnv4's time\n")
    print("| stage | pass | dcnv4 | memory | deform_conv2d | grid_sample |\n| --- | --- | --- | --- | --- | --- |")
    for stage, (height, width, groups) in STAGES.items():
        value = torch.randn(1, height, width, groups * GROUP_CHANNELS)
        offset_mask = torch.randn(1, height, width, (27 * groups + 7) // 8 * 8)
        peers = {}
        if not options.no_peers:
            peers = {
                "deform_conv2d": (run_torchvision, torchvision_inputs(value, offset_mask, groups)),
                "grid_sample": (run_grid_sample, grid_sample_inputs(value, offset_mask, groups)),
            }
            ours = dcnv4(value, offset_mask, 3, padding=1, groups=groups)
            check_equal(
                ours.permute(0, 3, 1, 2).reshape(groups, GROUP_CHANNELS, height, width),
                {
                    name: function(*inputs).reshape(groups, GROUP_CHANNELS, height, width)
                    for name, (function, inputs) in peers.items()
                },
            )
        value, offset_mask = value.to(dtype), offset_mask.to(dtype)

        def run_dcnv4(value: Tensor, offset_mask: Tensor, groups: int = groups) -> Tensor:
            return dcnv4(value, offset_mask, 3, padding=1, groups=groups)

        def move(value: Tensor = value, offset_mask: Tensor = offset_mask) -> None:
            value.clone()
            offset_mask.clone()
            torch.zeros_like(value)

        candidates = {"dcnv4": (run_dcnv4, [value, offset_mask]), **peers}
        for name in ("forward", "forward + backward"):
            times = {}
            for candidate, (function, inputs) in candidates.items():
                repeats = options.repeats if candidate == "dcnv4" else max(3, options.repeats // 3)
                if name == "forward":
                    call = lambda function=function, inputs=inputs: function(*inputs)  # noqa: E731
                else:
                    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
                    call = with_backward(function, inputs, torch.randn_like(function(*inputs)))
                times[candidate] = median_seconds(call, repeats)
            base = times["dcnv4"]
            memory = median_seconds(move, options.repeats)
            cells = [f"{1e3 * base:.2f}", f"{1e3 * memory:.2f}"]
            cells += [
                f"{1e3 * times[peer]:.1f} ({times[peer] / base:.0f}x)" if peer in times else ""
                for peer in ("deform_conv2d", "grid_sample")
            ]
            print("| " + " | ".join([stage, name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
