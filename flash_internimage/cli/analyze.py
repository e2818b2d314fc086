#!/usr/bin/env python
"""What detectors cost, as a Markdown table: parameters and GFLOPs; with --time also images a second, memory, time by part.

    python tools/analyze_model.py configs/coco/*_coco.py
    python tools/analyze_model.py configs/coco/dino_4scale_flash_internimage_t_1x_coco.py --size 640 640
    python tools/analyze_model.py configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py --time --batch 1 8 \\
        --precision fp32 bf16 --compile

Weights and images are random. GFLOPs are billions of multiply-adds of one forward pass of one image, counted by fvcore. A
two-stage detector's heads are counted and timed on the proposals that pass its test settings (1000), and its mask head on
100 detections, as a trained model has them.

The parts are the same for all models:

    backbone    FlashInternImage
    neck        feature pyramid, or DINO's channel mapper
    proposals   region proposals, or DINO's encoder and choice of queries
    heads       box and mask heads with pooling and NMS, or DINO's decoder
    rest        normalization of images, positions, classification of DINO's queries, pasting of masks into the image

--compile adds rows in which the parts that are functions of tensors alone are compiled: backbone, neck, encoder, decoder.
Times are medians; with one thread (OMP_NUM_THREADS=1) on a CPU, of the processor's time, which other programs do not disturb.
Memory is the most that PyTorch had allocated on a GPU; on a CPU, where Linux tells it, the most that the process held in
memory, Python and PyTorch included.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import instantiate
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from tqdm import tqdm

from flash_internimage.cli.errors import reported
from flash_internimage.engine.config import load_config
from flash_internimage.engine.distributed import resolve_device
from flash_internimage.engine.memory import peak_memory, reset_peak_memory
from flash_internimage.ops.flops import FLOP_HANDLES

PARTS = ("backbone", "neck", "proposals", "heads", "rest")
PART_OF = {
    "backbone": "backbone",
    "backbone.bottom_up": "backbone",
    "neck": "neck",
    "proposal_generator": "proposals",
    "transformer.encoder": "proposals",
    "transformer.query_selection": "proposals",
    "roi_heads": "heads",
    "head": "heads",
    "transformer.decoder": "heads",
}
"""The part to which each of a detector's modules belongs, by path; what is in none of them is the rest."""

COMPILED = ("backbone.bottom_up", "backbone", "neck", "transformer.encoder", "transformer.decoder")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# Cheap, element by element, or selections: fvcore has no count for them, and detectron2 leaves them out as well.
IGNORED = {
    "aten": "add add_ argmax argsort batch_norm constant_pad_nd div div_ exp log2 max_pool2d meshgrid mul mul_ neg "
    "nonzero_numpy reciprocal repeat_interleave rsub sigmoid sigmoid_ softmax sort sqrt sub",
    "torchvision": "nms roi_align",
}
IGNORED_HANDLES = {f"{library}::{name}": None for library, names in IGNORED.items() for name in names.split()}


class OneImage(nn.Module):
    """A detector as a function of one image tensor, as tracing wants it."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        (output,) = self.detector([{"image": image, "height": height, "width": width}])
        fields = output["instances"].get_fields().values()
        return [field if isinstance(field, Tensor) else field.tensor for field in fields]


def part_of_module(model: nn.Module) -> dict[str, str]:
    """``PART_OF`` for the modules that a detector has."""
    paths = {path for path, _ in model.named_modules()}
    parts = {path: part for path, part in PART_OF.items() if path in paths}
    if "backbone.bottom_up" in paths:
        parts["backbone"] = "neck"  # a pyramid around the backbone proper
    return parts


def sum_by_part(model: nn.Module, costs: Mapping[str, float]) -> Counter[str]:
    """Costs of modules, each with what is inside it, summed up by part.

    Args:
        costs: by path of the module; ``""`` is the whole model.

    Returns:
        The cost of each part, of ``rest``, and under ``""`` of the whole.
    """
    sums: Counter[str] = Counter({"": costs[""]})
    parts = part_of_module(model)
    for path, part in parts.items():
        inside = sum(costs.get(other, 0) for other in parts if other.startswith(f"{path}."))
        sums[part] += costs.get(path, 0) - inside
    sums["rest"] = costs[""] - sum(sums[part] for part in PARTS[:-1])
    return sums


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Tracing warns of every Python number that it takes for constant; here there is one image, and all are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        yield


def count_flops(model: nn.Module, height: int, width: int) -> Counter[str]:
    """Multiply-adds of one image of height x width pixels, by part; ``""`` is the whole."""
    image = torch.rand(3, height, width) * 255
    analysis = FlopCountAnalysis(OneImage(model), image)
    analysis.set_op_handle(**FLOP_HANDLES).set_op_handle(**IGNORED_HANDLES)
    with quiet(), torch.no_grad():
        by_module = analysis.by_module()
    return sum_by_part(model, {name.removeprefix("detector").lstrip("."): flops for name, flops in by_module.items()})


def count_parameters(module: nn.Module) -> int:
    """Parameters, whether they are trained or frozen."""
    return sum(parameter.numel() for parameter in module.parameters())


def build(path: str) -> nn.Module:
    """The model of a config in evaluation mode, with random weights, finding as much as a trained one.

    Random weights score below the test threshold; a trained model fills its 100 detections.
    """
    torch.manual_seed(0)
    model = instantiate(load_config(path, [], eval_only=True).model).eval()
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
    return model


@dataclass(frozen=True)
class Mode:
    """How a model is run.

    Attributes:
        batch: images at once.
        precision: a key of ``PRECISIONS``; other than fp32 it is that of autocast.
        compiled: whether torch.compile was applied.
    """

    batch: int
    precision: str
    compiled: bool


@dataclass(frozen=True)
class Measurement:
    """What a run took.

    Attributes:
        seconds: of one batch, the median.
        peak_bytes: None where nobody tells.
        by_part: seconds of one batch in each part.
    """

    seconds: float
    peak_bytes: int | None
    by_part: Counter[str]


def now(device: torch.device) -> float:
    """Seconds on a clock, when all that was started has ended.

    With one thread on a CPU they are those that the processor spent here, which other programs on the machine do not disturb.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


@contextlib.contextmanager
def timed_modules(model: nn.Module, device: torch.device) -> Iterator[Counter[str]]:
    """Adds up the seconds inside each module of ``PART_OF`` and, under ``""``, in the model."""
    seconds: Counter[str] = Counter()
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


def compile_parts(model: nn.Module) -> None:
    """Compile the parts in ``COMPILED`` in place; their hooks, which take the time, stay outside."""
    paths = [path for path, _ in model.named_modules() if path in COMPILED]
    for path in paths:
        if not any(other.startswith(f"{path}.") for other in paths):
            module = model.get_submodule(path)
            module.forward = torch.compile(module.forward)


def measure(model: nn.Module, size: Sequence[int], mode: Mode, runs: int) -> Measurement:
    """Run a model on random images of ``size`` = (height, width), ``runs`` times after one that does not count."""
    device = next(model.parameters()).device
    height, width = size
    image = (torch.rand(3, height, width) * 255).to(device)
    batch = [{"image": image, "height": height, "width": width} for _ in range(mode.batch)]
    dtype = PRECISIONS[mode.precision]
    times = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
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


def line(values: Sequence[object]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(str(value) for value in values)} |"


def header(timed: bool) -> list[str]:
    """The first two lines of the table."""
    names = ["config", "params (M)", "GFLOPs"]
    if timed:
        names += ["images", "precision", "images/s", "memory (MB)"]
    names += [f"{part} ({'ms' if timed else 'GFLOPs'})" for part in PARTS]
    return [line(names), line("---" if name in ("config", "precision") else "---:" for name in names)]


def cost_cells(name: str, parameters: int, flops: Counter[str]) -> list[str]:
    return [name, f"{parameters / 1e6:.1f}", short(flops[""] / 1e9)]


def short(value: float) -> str:
    """To the unit, or to a tenth where that says more."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def measurement_cells(mode: Mode, measured: Measurement) -> list[str]:
    memory = "unknown" if measured.peak_bytes is None else f"{measured.peak_bytes / 1e6:.0f}"
    precision = f"{mode.precision}, compiled" if mode.compiled else mode.precision
    rate = mode.batch / measured.seconds
    parts = [short(measured.by_part[part] * 1000) for part in PARTS]
    return [str(mode.batch), precision, f"{rate:.3g}", memory, *parts]


def modes(arguments: argparse.Namespace) -> list[Mode]:
    """The runs that are asked for; the compiled ones last, because compiling cannot be undone."""
    compiled = [False, True] if arguments.compile else [False]
    return [
        Mode(batch, precision, is_compiled)
        for is_compiled, precision, batch in itertools.product(compiled, arguments.precision, arguments.batch)
    ]


def rows(path: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """The lines of one config."""
    model = build(path)
    flops = count_flops(model, *arguments.size)
    costs = cost_cells(Path(path).stem, count_parameters(model), flops)
    if not arguments.time:
        yield line([*costs, *(short(flops[part] / 1e9) for part in PARTS)])
        return
    model.to(device)
    is_compiled = False
    for mode in modes(arguments):
        if mode.compiled and not is_compiled:
            compile_parts(model)
            is_compiled = True
        yield line([*costs, *measurement_cells(mode, measure(model, arguments.size, mode, arguments.runs))])


def environment(device: torch.device) -> str:
    """The line under a table of times, without which they mean nothing."""
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    else:
        place = f"CPU with {torch.backends.cpu.get_cpu_capability()}, number of threads {torch.get_num_threads()}"
    return f"PyTorch {torch.__version__}; {place}; parts in milliseconds a batch."


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="LazyConfig files")
    size = {"default": (800, 1280), "metavar": ("HEIGHT", "WIDTH"), "help": "of the image in pixels (800 1280)"}
    parser.add_argument("--size", nargs=2, type=positive, **size)
    timing = parser.add_argument_group("measuring")
    timing.add_argument("--time", action="store_true", help="run the models; on a CPU a large one takes seconds an image")
    timing.add_argument("--batch", nargs="+", type=positive, default=[1], metavar="N", help="images at once (1)")
    timing.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="(fp32) others by autocast")
    timing.add_argument("--compile", action="store_true", help="measure compiled too; compiling takes minutes on a CPU")
    timing.add_argument("--runs", type=positive, default=3, metavar="N", help="of which the median counts (3)")
    timing.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(auto: a GPU where there is one)")
    arguments = parser.parse_args(argv)
    measuring = ("batch", "precision", "compile", "runs", "device")
    if not arguments.time and any(getattr(arguments, name) != parser.get_default(name) for name in measuring):
        parser.error("--batch, --precision, --compile, --runs and --device are for --time")
    return arguments


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with reported("analyze_model"):
        device = resolve_device(arguments.device)
        print("\n".join(header(arguments.time)))
        for path in tqdm(arguments.configs, desc="analysing", unit="model", disable=len(arguments.configs) == 1):
            for row in rows(path, arguments, device):
                tqdm.write(row, file=sys.stdout)
        if arguments.time:
            print(f"\n{environment(device)}")


if __name__ == "__main__":
    main()
