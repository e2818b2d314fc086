"""Comparison of the ONNX forms of the two operators with the compiled operators, on inputs that reveal errors.

Borders, points outside the feature map, NaN and infinite locations, unequal kernels, strides and dilations, and two sizes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flash_internimage.ops.dcnv4 import dcnv4, output_size
from flash_internimage.ops.ms_deform_attn import ms_deform_attn
from flash_internimage.packages import require

from .verification import VerificationError
from .writing import OPERATOR_FORMS, to_onnx

TOLERANCE = 1e-4
"""Largest difference: rounding of sampling locations of up to a hundred pixels, times differences between pixels of about 3."""

_GROUPS, _GROUP_CHANNELS = 2, 4
_HEADS, _POINTS = 2, 3
# The settings of the models; and unequal height and width settings, a scaled grid and a removed center.
_NAMES = ("kernel_size", "stride", "padding", "dilation", "offset_scale", "remove_center")
_DCNV4: tuple[dict[str, Any], ...] = tuple(
    dict(zip(_NAMES, settings, strict=True))
    for settings in (
        ((3, 3), (1, 1), (1, 1), (1, 1), 1.0, False),
        ((3, 5), (2, 1), (1, 2), (2, 1), 0.5, True),
    )
)


class Operators(nn.Module):
    """Calls both operators with fixed settings; the attention samples the value and an output of DCNv4 as two levels."""

    def forward(self, value: Tensor, first: Tensor, second: Tensor, locations: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        settings = zip((first, second), _DCNV4, strict=True)
        outputs = [dcnv4(value, offset_mask, groups=_GROUPS, **setting) for offset_mask, setting in settings]
        maps = [value, outputs[1]]
        pixels = torch.cat([x.flatten(1, 2) for x in maps], dim=1).unflatten(2, (_HEADS, -1))
        shapes = [(x.shape[1], x.shape[2]) for x in maps]
        return outputs[0], outputs[1], ms_deform_attn(pixels, shapes, locations, weights)


def example_inputs(height: int, width: int, batch: int = 2, queries: int = 5) -> tuple[Tensor, ...]:
    """Random inputs, of which some sampling locations are outside, at the border, infinite and NaN."""
    generator = torch.Generator().manual_seed(height)
    value = torch.randn(batch, height, width, _GROUPS * _GROUP_CHANNELS, generator=generator)
    inputs = [value]
    for setting in _DCNV4:
        out_height, out_width = (
            output_size(size, *(setting[name][axis] for name in _NAMES[:4])) for axis, size in enumerate((height, width))
        )
        points = setting["kernel_size"][0] * setting["kernel_size"][1] - int(setting["remove_center"])
        channels = -(-3 * points * _GROUPS // 8) * 8
        offset_mask = 2 * torch.randn(batch, out_height, out_width, channels, generator=generator)
        offset_mask[0, 0, 0, :6] = torch.tensor([float("nan"), 0.0, float("inf"), -float("inf"), 1e30, -1e9])
        offset_mask[:, 1, :, : 2 * points] = 1.0  # whole pixels, so that points lie exactly on the borders
        inputs.append(offset_mask)
    shape = (batch, queries, _HEADS, 2, _POINTS)
    locations = 2 * torch.rand(*shape, 2, generator=generator) - 0.5
    locations[0, 0, 0, 0, :, 0] = torch.tensor([float("nan"), float("inf"), -1e30])
    locations[:, 1] = torch.tensor([0.0, 1.0])
    weights = torch.rand(shape, generator=generator)
    return *inputs, locations, weights


@torch.no_grad()
def check_operators(target: str) -> float:
    """Compare the forms of a target in its runtime with the compiled operators; return the largest difference.

    Raises:
        VerificationError: the difference exceeds the tolerance.
        UserError: a package is missing.
    """
    operators = Operators().eval()
    auto = torch.export.Dim.AUTO
    first = {0: auto, 1: auto, 2: auto}
    program = torch.export.export(
        operators, example_inputs(7, 6), dynamic_shapes=(first, first, first, {0: auto, 1: auto}, {0: auto, 1: auto})
    )
    names = ["value", "first", "second", "locations", "weights"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "operators.onnx"
        to_onnx(program, path, OPERATOR_FORMS[target], names, ["dcnv4", "unequal", "attention"], {})
        run = _openvino(path) if target == "openvino" else _onnxruntime(path)
        largest = 0.0
        for inputs in (example_inputs(7, 6), example_inputs(9, 13, batch=3, queries=4)):
            outputs = run({name: x.numpy() for name, x in zip(names, inputs, strict=True)})
            for expected, given in zip(operators(*inputs), outputs, strict=True):
                largest = max(largest, float((expected - torch.from_numpy(given)).abs().nan_to_num(torch.inf).max()))
    if largest > TOLERANCE:
        raise VerificationError(
            f"export: the operators' forms for {target} should differ by at most {TOLERANCE} from the compiled operators, got "
            f"{largest:.1e}; update {'openvino' if target == 'openvino' else 'onnxruntime'}"
        )
    return largest


def _onnxruntime(path: Path) -> Any:
    onnxruntime = require("onnxruntime", "export: checking the operators")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def _openvino(path: Path) -> Any:
    openvino = require("openvino", "export: checking the operators for OpenVINO")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: [compiled(inputs)[number] for number in range(3)]
