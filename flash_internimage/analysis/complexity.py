"""Counts the parameters and the multiply-adds of a detector."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from flash_internimage.ops.flops import FLOP_HANDLES

from .parts import sum_by_part

# Elementwise operations and selections, which cost little: fvcore has no count for them, and detectron2 ignores them as well.
IGNORED = {
    "aten": "add add_ argmax argsort batch_norm constant_pad_nd div div_ exp log2 max_pool2d meshgrid mul mul_ neg "
    "nonzero_numpy reciprocal repeat_interleave rsub sigmoid sigmoid_ softmax sort sqrt sub",
    "torchvision": "nms roi_align",
}
IGNORED_HANDLES = {f"{library}::{name}": None for library, names in IGNORED.items() for name in names.split()}


class OneImage(nn.Module):
    """A detector as a function of one image tensor, which tracing needs."""

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
    """Silence tracing, which warns of every Python number that it takes for a constant; with one image, all are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
        yield


def count_flops(model: nn.Module, height: int, width: int) -> dict[str, float]:
    """Count the multiply-adds of a forward pass of one image of height x width pixels.

    Returns:
        The count of each part, of ``rest``, and under ``""`` of the whole.
    """
    image = torch.rand(3, height, width) * 255
    analysis = FlopCountAnalysis(OneImage(model), image)
    analysis.set_op_handle(**FLOP_HANDLES).set_op_handle(**IGNORED_HANDLES)
    with quiet(), torch.no_grad():
        by_module = analysis.by_module()
    return sum_by_part(model, {name.removeprefix("detector").lstrip("."): flops for name, flops in by_module.items()})


def count_parameters(module: nn.Module) -> int:
    """Count the parameters, trained or frozen."""
    return sum(parameter.numel() for parameter in module.parameters())
