"""Multiply-adds of the operators, for fvcore's counter: ``FlopCountAnalysis(…).set_op_handle(**FLOP_HANDLES)``.

As fvcore does, a multiply-add counts as one. A bilinear sample is the weighted sum of four cells, with the modulation or
attention weight multiplied into the four weights, so a point costs four for each channel. The weights themselves, a few
operations a point whatever the number of channels, are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CORNERS = 4


def dcnv4_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of one call of :func:`.dcnv4`, traced: output cells x channels x points x 4.

    Args:
        inputs: traced arguments in the operator's order.
        outputs: the traced output, (N, Ho, Wo, C).
    """
    kernel_height, kernel_width = (entry.toIValue() for entry in inputs[2].node().inputs())
    points = kernel_height * kernel_width - int(inputs[8].toIValue())
    return _numel(outputs[0]) * points * _CORNERS


def ms_deform_attn_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of one call of :func:`.ms_deform_attn`, traced: queries x channels x levels x points x 4.

    Args:
        inputs: traced arguments in the operator's order.
        outputs: the traced output, (N, Q, heads * D).
    """
    sampling_locations = inputs[2].type().sizes()
    levels, points = sampling_locations[3], sampling_locations[4]
    return _numel(outputs[0]) * levels * points * _CORNERS


def _numel(traced: Any) -> int:
    size = 1
    for length in traced.type().sizes():
        size *= length
    return size


FLOP_HANDLES = {
    "flash_internimage::dcnv4": dcnv4_flops,
    "flash_internimage::ms_deform_attn": ms_deform_attn_flops,
}
