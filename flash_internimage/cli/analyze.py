"""Print a Markdown table of what detectors cost: parameters and GFLOPs; with --time, speed and memory.

Examples:

  parameters and GFLOPs of two published detectors:
    flash-internimage analyze --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco \\
        dino_4scale_flash_internimage_t_1x_coco

  for smaller images:
    flash-internimage analyze --config-file dino_4scale_flash_internimage_t_1x_coco --size 640 640

  images per second, memory and time of each part, eager and compiled:
    flash-internimage analyze --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco \\
        --time --batch 1 8 --precision fp32 bf16 --compile

Weights and images are random. GFLOPs are billions of multiply-adds in a forward pass of one image, counted by fvcore. The heads
of a two-stage detector are counted and timed on the proposals of its test settings (1000), and its mask head on 100 detections,
as a trained model has them.

All detectors have the same parts:

    backbone    FlashInternImage
    neck        feature pyramid, or DINO's channel mapper
    proposals   region proposals, or DINO's encoder and query selection
    heads       box and mask heads with pooling and NMS, or DINO's decoder
    rest        normalization of images, position encodings, classification of DINO's queries, pasting of masks

--compile adds rows in which the parts that are functions of tensors alone are compiled: backbone, neck, encoder, decoder.
Times are medians; on a CPU with one thread (OMP_NUM_THREADS=1) they are CPU time, which other programs do not disturb.
Memory is the peak of what PyTorch allocated on a GPU; on a CPU under Linux it is the peak RSS of the process.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from detectron2.config import instantiate
from torch import nn
from tqdm import tqdm

from flash_internimage.analysis.complexity import count_flops, count_parameters
from flash_internimage.analysis.parts import PARTS
from flash_internimage.analysis.speed import Measurement, Mode, measure
from flash_internimage.compilation import compile_parts
from flash_internimage.engine.config import load_config
from flash_internimage.engine.distributed import resolve_device
from flash_internimage.precision import DTYPES

from .arguments import add_config, config_path, positive
from .errors import UsageError

MEASURING = {"batch": [1], "precision": ["fp32"], "compile": False, "runs": 3, "device": "auto"}
"""Default values of the arguments that need --time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, several=True)
    size = ("HEIGHT", "WIDTH")
    parser.add_argument(
        "--size", nargs=2, type=positive, default=(800, 1280), metavar=size, help="image size in pixels (800 1280)"
    )
    timing = parser.add_argument_group("measuring")
    timing.add_argument("--time", action="store_true", help="run the models; on a CPU a large one takes seconds per image")
    timing.add_argument("--batch", nargs="+", type=positive, metavar="N", help="batch sizes (1)")
    timing.add_argument("--precision", nargs="+", choices=DTYPES, help="precisions; all but fp32 by autocast (fp32)")
    timing.add_argument("--compile", action="store_true", help="also measure compiled; compiling takes minutes on a CPU")
    timing.add_argument("--runs", type=positive, metavar="N", help="runs, of which the median is printed (3)")
    timing.add_argument("--device", choices=["auto", "cpu", "cuda"], help="auto is a GPU, or the CPU if there is none (auto)")
    parser.set_defaults(**MEASURING)


def run(args: argparse.Namespace) -> int:
    if not args.time and any(getattr(args, name) != default for name, default in MEASURING.items()):
        raise UsageError(f"{', '.join(f'--{name}' for name in MEASURING)} need --time")
    paths = [config_path(name) for name in args.config_file]
    device = resolve_device(args.device)
    print("\n".join(header(args.time)))
    for path in tqdm(paths, desc="analyzing", unit="model", disable=len(paths) == 1):
        for row in rows(path, args, device):
            tqdm.write(row, file=sys.stdout)
    if args.time:
        print(f"\n{environment(device)}")
    return 0


def build(path: str, trust_config: bool = False) -> nn.Module:
    """Build the model of a config in evaluation mode, with random weights and as many detections as a trained model.

    Random weights score below the test threshold; a trained model reaches its limit of 100 detections.
    """
    torch.manual_seed(0)
    model = instantiate(load_config(path, [], eval_only=True, trust_config=trust_config).model).eval()
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
    return model


def modes(args: argparse.Namespace) -> list[Mode]:
    """Return the modes to measure; the compiled ones come last, because compiling cannot be undone."""
    compiled = [False, True] if args.compile else [False]
    return [
        Mode(batch, precision, is_compiled)
        for is_compiled, precision, batch in itertools.product(compiled, args.precision, args.batch)
    ]


def rows(path: str, args: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Yield the lines of one config."""
    model = build(path, args.trust_config)
    flops = count_flops(model, *args.size)
    costs = [Path(path).stem, f"{count_parameters(model) / 1e6:.1f}", short(flops[""] / 1e9)]
    if not args.time:
        yield line([*costs, *(short(flops[part] / 1e9) for part in PARTS)])
        return
    model.to(device)
    is_compiled = False
    for mode in modes(args):
        if mode.compiled and not is_compiled:
            compile_parts(model)
            is_compiled = True
        yield line([*costs, *measurement_cells(mode, measure(model, args.size, mode, args.runs))])


def header(timed: bool) -> list[str]:
    """Return the first two lines of the table."""
    names = ["config", "params (M)", "GFLOPs"]
    if timed:
        names += ["images", "precision", "images/s", "memory (MB)"]
    names += [f"{part} ({'ms' if timed else 'GFLOPs'})" for part in PARTS]
    return [line(names), line("---" if name in ("config", "precision") else "---:" for name in names)]


def measurement_cells(mode: Mode, measured: Measurement) -> list[str]:
    """Return the cells of a measurement, in the order of the header."""
    memory = "unknown" if measured.peak_bytes is None else f"{measured.peak_bytes / 1e6:.0f}"
    precision = f"{mode.precision}, compiled" if mode.compiled else mode.precision
    rate = mode.batch / measured.seconds
    parts = [short(measured.by_part[part] * 1000) for part in PARTS]
    return [str(mode.batch), precision, f"{rate:.3g}", memory, *parts]


def line(values: Iterable[object]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(str(value) for value in values)} |"


def short(value: float) -> str:
    """Format a number with one decimal, or without decimals from 10 on."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def environment(device: torch.device) -> str:
    """Return the line below a table of times: what they were measured on."""
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    else:
        place = f"CPU with {torch.backends.cpu.get_cpu_capability()}, number of threads {torch.get_num_threads()}"
    return f"PyTorch {torch.__version__}; {place}; parts in milliseconds per batch."
