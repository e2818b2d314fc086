#!/usr/bin/env python
"""Parameters and GFLOPs of detectors, as a Markdown table.

    python tools/analyze_model.py configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py
    python tools/analyze_model.py configs/coco/*.py --size 800 1280

GFLOPs are billions of multiply-adds of one forward pass, counted by fvcore on one image with random weights. A two-stage
detector's heads are counted on the proposals that pass its test settings (1000), and its mask head on 100 detections.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.config import instantiate
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from tqdm import tqdm

from flash_internimage.engine.config import load_config
from flash_internimage.ops.flops import FLOP_HANDLES

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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Tracing warns of every Python number that it takes for constant; here there is one image, and all are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        yield


def count_flops(model: nn.Module, height: int, width: int) -> Counter[str]:
    """Multiply-adds of one image of height x width pixels, by top-level part of the model; ``""`` is the whole."""
    image = torch.rand(3, height, width) * 255
    analysis = FlopCountAnalysis(OneImage(model.eval()), image)
    analysis.set_op_handle(**FLOP_HANDLES).set_op_handle(**IGNORED_HANDLES)
    with quiet(), torch.no_grad():
        by_module = analysis.by_module()
    parts = {name.removeprefix("detector").lstrip("."): flops for name, flops in by_module.items()}
    return Counter({name: flops for name, flops in parts.items() if "." not in name})


def count_parameters(module: nn.Module) -> int:
    """Parameters, whether they are trained or frozen."""
    return sum(parameter.numel() for parameter in module.parameters())


def lower_thresholds(model: nn.Module) -> None:
    """Random weights score below the test threshold; a trained model fills its 100 detections, so count those."""
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0


def row(path: Path, height: int, width: int) -> str:
    """One line of the table."""
    model = instantiate(load_config(str(path), [], eval_only=True).model)
    lower_thresholds(model)
    flops = count_flops(model, height, width)
    return f"| {path.stem} | {count_parameters(model) / 1e6:.1f} | {flops[''] / 1e9:.0f} | {flops['backbone'] / 1e9:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    size = {"default": (800, 1280), "metavar": ("HEIGHT", "WIDTH"), "help": "in pixels (800 1280)"}
    parser.add_argument("--size", nargs=2, type=int, **size)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = ["| config | parameters (M) | GFLOPs | of these, backbone |", "| --- | ---: | ---: | ---: |"]
    try:
        for path in tqdm(arguments.configs, desc="counting", unit="model"):
            rows.append(row(path, *arguments.size))
    except (ValueError, OSError) as error:
        sys.exit(f"analyze_model: {error}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
