"""FLOP counters of the operators for fvcore: ``FlopCountAnalysis(...).set_op_handle(**FLOP_HANDLES)``.

A multiply-add counts as one FLOP, as in fvcore. A bilinear sample is a weighted sum of four pixels, with the modulation
scalar or attention weight folded into the four weights, so a sampling point costs four FLOPs per channel. Computing the
weights takes a few operations per point, independent of the number of channels, and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CORNERS = 4


def dcnv4_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """FLOPs of one call of :func:`.dcnv4`: output positions x channels x points x 4.

    Args:
        inputs: JIT values of the operator's arguments, in order.
        outputs: JIT value of the output, (N, Ho, Wo, C).
    """
    kernel_height, kernel_width = (entry.toIValue() for entry in inputs[2].node().inputs())
    points = kernel_height * kernel_width - int(inputs[8].toIValue())
    return _numel(outputs[0]) * points * _CORNERS


def ms_deform_attn_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """FLOPs of one call of :func:`.ms_deform_attn`: queries x channels x levels x points x 4.

    Args:
        inputs: JIT values of the operator's arguments, in order.
        outputs: JIT value of the output, (N, Q, heads * D).
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
