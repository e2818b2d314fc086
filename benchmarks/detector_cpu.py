"""CPU time of a detector by part and kind of work, beside its matrix products and convolutions.

    OMP_NUM_THREADS=1 python benchmarks/detector_cpu.py
    OMP_NUM_THREADS=1 python benchmarks/detector_cpu.py --dtype bfloat16 --cast-weights

A row is a part of the detector, a column a kind of work inside it: matrix products and convolutions (with their biases), DCNv4,
RoIAlign, NMS, all other operators of PyTorch, and Python with what it calls besides operators. The ratio is that of the
complete part to its products and convolutions. Times are CPU milliseconds of the fastest run, on one thread.

Weights are random. The classifier is scaled so that its scores spread as those of a trained one: there are about a thousand
candidates above the score threshold, and 100 detections whose masks are computed and pasted.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from measuring import machine
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flash_internimage.layers import DCNv4, cast_weights

CONFIG = Path(__file__).resolve().parent.parent / "configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py"
PARTS = {
    "backbone.bottom_up": "backbone",
    "backbone": "neck",
    "proposal_generator": "proposals",
    "roi_heads.box_pooler": "box pooling",
    "roi_heads.box_head": "box head",
    "roi_heads.mask_pooler": "mask pooling",
    "roi_heads.mask_head": "mask head",
    "roi_heads": "box selection",
}
REST = "normalization and pasting"
KINDS = {
    "aten::addmm": "products",
    "aten::mm": "products",
    "aten::bmm": "products",
    "aten::linear": "products",
    "aten::convolution": "products",
    "aten::conv2d": "products",
    "aten::conv_transpose2d": "products",
    "mkldnn::_linear_pointwise": "products",
    "flash_internimage::dcnv4": "DCNv4",
    "torchvision::roi_align": "RoIAlign",
    "flash_internimage::ms_deform_attn": "RoIAlign",
    "torchvision::nms": "NMS",
}
COLUMNS = ("products", "DCNv4", "RoIAlign", "NMS", "other operators", "Python")


class Times(TorchDispatchMode):
    """Sums up the CPU seconds of operators by part and kind, and those of parts."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.by_operator: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.parts = [REST]
        self.last = time.process_time()

    def book(self, kind: str) -> float:
        """Book the time since the last call under the current part and a kind."""
        now = time.process_time()
        spent, self.last = now - self.last, now
        self.seconds[self.parts[-1], kind] += spent
        return spent

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.book("Python")
        result = function(*args, **(kwargs or {}))
        name = function._schema.name
        self.by_operator[self.parts[-1], name] += self.book(KINDS.get(name, "other operators"))
        return result


def build(options: argparse.Namespace, batch: list[dict]) -> nn.Module:
    """Build a detector in evaluation mode with offsets of about one pixel and scores that spread."""
    model = instantiate(LazyConfig.load(str(CONFIG)).model).eval()
    for module in model.modules():
        if isinstance(module, DCNv4):
            nn.init.normal_(module.offset_mask.weight, std=module.channels**-0.5)
    heads = model.roi_heads

    def scale(_: nn.Module, inputs: object, features: torch.Tensor) -> None:
        norm = features.square().sum(dim=1).mean().sqrt().item()
        nn.init.normal_(heads.box_predictor.cls_score.weight, std=1.5 / norm)

    handle = heads.box_head.register_forward_hook(scale)
    with torch.inference_mode():
        model(batch)
    handle.remove()
    return cast_weights(model, torch.bfloat16) if options.cast_weights else model


def timed(model: nn.Module, batch: list[dict]) -> tuple[Times, int]:
    """Run the model once; return its times and the number of detections."""
    times = Times()

    def enter(part: str) -> None:
        times.book("Python")
        times.parts.append(part)

    def leave() -> None:
        times.book("Python")
        times.parts.pop()

    handles = []
    for path, part in PARTS.items():
        module = model.get_submodule(path)
        handles.append(module.register_forward_pre_hook(lambda *_, part=part: enter(part)))
        handles.append(module.register_forward_hook(lambda *_: leave()))
    with times:
        (output,) = model(batch)
    times.book("Python")
    for handle in handles:
        handle.remove()
    return times, len(output["instances"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1216)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--cast-weights", action="store_true", help="cast weights once, not in each call")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--operators", type=int, default=0, help="also list so many of the slowest operators by part")
    options = parser.parse_args()
    if torch.get_num_threads() != 1:
        parser.error("OMP_NUM_THREADS=1 is needed: times of operators are those of one thread")

    torch.manual_seed(0)
    image = (torch.rand(3, options.height, options.width) * 255).byte()
    batch = [{"image": image, "height": options.height, "width": options.width}]
    model = build(options, batch)
    with torch.inference_mode():
        runs = []
        for _ in range(options.runs):
            # A region per image, as in inference: leaving it empties autocast's cache of weights.
            with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16"):
                runs.append(timed(model, batch))
    times, detections = min(runs, key=lambda run: sum(run[0].seconds.values()))

    cast = ", weights cast beforehand" if options.cast_weights else ""
    shape = f"1 x 3 x {options.height} x {options.width}"
    print(f"{machine()}\n\n{CONFIG.stem}, {shape}, {options.dtype}{cast}, {detections} detections\n")
    print("| part | " + " | ".join(COLUMNS) + " | total | |\n| --- |" + " ---: |" * (len(COLUMNS) + 2))
    rows = [*dict.fromkeys([*PARTS.values(), REST]), "all"]
    for row in rows:
        parts = rows[:-1] if row == "all" else [row]
        cells = [sum(times.seconds[part, kind] for part in parts) for kind in COLUMNS]
        ratio = f"{sum(cells) / cells[0]:.2f}x" if cells[0] > 0 else ""
        print(f"| {row} | " + " | ".join(f"{1e3 * cell:.0f}" for cell in [*cells, sum(cells)]) + f" | {ratio} |")
    for (part, name), seconds in sorted(times.by_operator.items(), key=lambda item: -item[1])[: options.operators]:
        print(f"{1e3 * seconds:8.1f} ms  {part}: {name}")


if __name__ == "__main__":
    main()
