#!/usr/bin/env python3
"""Compare inference and a training step of each detector family on a GPU with those on the CPU; print a table.

    python tools/gpu_detectors.py
    python tools/gpu_detectors.py --device cpu    # without a GPU: the program itself, CPU against CPU

The models are the small ones of configs/shapes, with equal random weights on both devices, in float64; losses
and scores also in float32 (without TF32), losses also under autocast. Random numbers are drawn on the CPU for both devices.
The exit status is 1 if a difference is larger than rounding explains.
"""

import argparse
import copy
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package may not be installed

from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

if importlib.util.find_spec("cv2") is None:
    # Importing the configs imports data loading, and that OpenCV, which would take build/gpu-kit beyond its size.
    sys.modules["cv2"] = MagicMock()

from flash_internimage import model_zoo

CONFIGS = [f"{name}_flash_internimage_nano" for name in ("mask_rcnn", "cascade", "retinanet", "dino")]
SIZES = [(64, 96), (96, 64)]
CLASSES = 4
# In float64 rounding moves no sample across a threshold (matching, NMS, top-k); in lower precision it moves some.
TOLERANCES = {
    "features": 1e-9,
    "losses": 1e-9,
    "gradients": 1e-7,
    "scores": 1e-3,
    "losses in float32": 1e-2,
    "in bfloat16": 0.1,
}


class RandomOnCpu(TorchFunctionMode):
    """Draws random tensors on the CPU, so that every device gets the same numbers."""

    FUNCTIONS = (torch.rand, torch.randint, torch.randn, torch.randperm)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in self.FUNCTIONS and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is Tensor.bernoulli_:
            return args[0].copy_(torch.empty(args[0].shape).bernoulli_(*args[1:], **kwargs))
        return function(*args, **kwargs)


def batch(with_masks: bool) -> list[dict[str, Any]]:
    """Random images with three objects each."""
    entries = []
    for height, width in SIZES:
        boxes = torch.tensor([[8.0, 10.0, 50.0, 60.0], [30.0, 20.0, 62.0, 60.0], [5.0, 40.0, 30.0, 62.0]])
        instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.arange(3))
        if with_masks:
            masks = torch.zeros(3, height, width, dtype=torch.bool)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = True
            instances.gt_masks = BitMasks(masks)
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        entries.append({"image": pixels, "height": height, "width": width, "instances": instances})
    return entries


def features(model: nn.Module, inputs: list[dict[str, Any]]) -> list[Tensor]:
    """The feature maps of the backbone for the first image."""
    image = inputs[0]["image"].to(next(model.parameters()))
    backbone: Any = model.backbone
    return list(backbone(((image - 110) / 60)[None]).values())


def losses(model: nn.Module, inputs: list[dict[str, Any]]) -> Tensor:
    """All losses of a batch, in the order of their names."""
    torch.manual_seed(2)
    by_name = model(inputs)
    return torch.stack([by_name[name] for name in sorted(by_name)])


def results(model: nn.Module, inputs: list[dict[str, Any]], device: torch.device) -> dict[str, Tensor]:
    """What is compared, on the CPU: concatenated feature maps, sorted scores, losses, gradients."""
    model = copy.deepcopy(model).to(device, torch.float64)
    found = {}
    with RandomOnCpu(), EventStorage():
        model.train()
        with torch.no_grad():
            found["features"] = torch.cat([feature.flatten() for feature in features(model, inputs)])
        found["losses"] = losses(model, inputs)
        found["losses"].sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found["gradients"] = torch.cat([gradient.flatten() for gradient in gradients])
        model.float()
        found["losses in float32"] = losses(model, inputs)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found["in bfloat16"] = losses(model, inputs)
        found["in bfloat16"].sum().backward()
        model.eval()
        with torch.no_grad():  # in float32, because detectron2's RetinaNet cannot infer in float64
            scores = [output["instances"].scores for output in model(inputs)]
        found["scores"] = torch.cat([each.sort(descending=True).values for each in scores])
    return {name: tensor.detach().double().cpu() for name, tensor in found.items()}


def difference(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is expected; infinite for other shapes or non-finite numbers."""
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return float("inf")
    return ((actual - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="NAME")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    print(
        "Norm of the difference from the CPU, relative to the norm on the CPU; in parentheses the largest that is accepted.\n"
    )
    columns = ["detector", *(f"{name} ({limit:g})" for name, limit in TOLERANCES.items()), "result", "seconds"]
    print("| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    failed = False
    for name in options.configs:
        start = time.perf_counter()
        torch.manual_seed(0)
        model = instantiate(model_zoo.get_config(name).model)
        for module in model.modules():
            if hasattr(module, "test_score_thresh"):
                module.test_score_thresh = 0.0  # random weights have low scores
        inputs = batch(with_masks="rcnn" in name or "cascade" in name)
        expected = results(model, inputs, torch.device("cpu"))
        actual = results(model, inputs, device)
        differences = {key: difference(actual[key], expected[key]) for key in TOLERANCES}
        wrong = [key for key, value in differences.items() if not value <= TOLERANCES[key]]
        failed = failed or bool(wrong)
        cells = [name, *(f"{value:.1e}" for value in differences.values())]
        cells += [f"differs: {', '.join(wrong)}" if wrong else "equal", f"{time.perf_counter() - start:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
