"""FLOP counters of the operators, for fvcore and for PyTorch.

- fvcore: ``FlopCountAnalysis(...).set_op_handle(**FLOP_HANDLES)``. A multiply-add counts as one FLOP.
- PyTorch: ``torch.utils.flop_counter.FlopCounterMode`` counts the operators, forward and backward, once this package is
  imported. A multiply-add counts as two FLOPs, as in all counts of PyTorch.

A bilinear sample is a weighted sum of four pixels, with the modulation scalar or attention weight folded into the four
weights, so a sampling point costs four multiply-adds per channel. Computing the weights takes a few operations per point,
independent of the number of channels, and is not counted. The backward pass costs the same once for the gradient of the values,
and once for those of the sampling points and weights: four dot products over the channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from . import _extension

_CORNERS = 4
_FLOPS_PER_MULTIPLY_ADD = 2  # in PyTorch's counts


def _dcnv4_multiply_adds(output: Sequence[int], kernel_size: Sequence[int], remove_center: bool) -> int:
    """Output positions x channels x points x 4, from the shape (N, Ho, Wo, C) of the output."""
    points = kernel_size[0] * kernel_size[1] - int(remove_center)
    return math.prod(output) * points * _CORNERS


def _ms_deform_attn_multiply_adds(output: Sequence[int], sampling_locations: Sequence[int]) -> int:
    """Queries x channels x levels x points x 4, from the shapes (N, Q, heads * D) and (N, Q, heads, L, points, 2)."""
    levels, points = sampling_locations[3], sampling_locations[4]
    return math.prod(output) * levels * points * _CORNERS


def dcnv4_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """fvcore's count of one call of :func:`.dcnv4`, whose arguments and output are given as JIT values."""
    kernel_size = [entry.toIValue() for entry in inputs[2].node().inputs()]
    return _dcnv4_multiply_adds(outputs[0].type().sizes(), kernel_size, inputs[8].toIValue())


def ms_deform_attn_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """fvcore's count of one call of :func:`.ms_deform_attn`, whose arguments and output are given as JIT values."""
    return _ms_deform_attn_multiply_adds(outputs[0].type().sizes(), inputs[2].type().sizes())


FLOP_HANDLES = {
    "flash_internimage::dcnv4": dcnv4_flops,
    "flash_internimage::ms_deform_attn": ms_deform_attn_flops,
}


# PyTorch passes the arguments of the operators' schemas, with shapes in place of tensors, and the shape of the output.


def _dcnv4_formula(value: Any, offset_mask: Any, kernel_size: Any, *settings: Any, out_shape: Any) -> int:
    *_, remove_center = settings
    return _dcnv4_multiply_adds(out_shape, kernel_size, remove_center) * _FLOPS_PER_MULTIPLY_ADD


def _dcnv4_backward_formula(
    grad_output: Any, value: Any, offset_mask: Any, kernel_size: Any, *settings: Any, out_shape: Any
) -> int:
    *_, remove_center, needs_value, needs_points = settings
    passes = needs_value + needs_points
    return passes * _dcnv4_multiply_adds(grad_output, kernel_size, remove_center) * _FLOPS_PER_MULTIPLY_ADD


def _ms_deform_attn_formula(
    value: Any, spatial_shapes: Any, sampling_locations: Any, attention_weights: Any, *, out_shape: Any
) -> int:
    return _ms_deform_attn_multiply_adds(out_shape, sampling_locations) * _FLOPS_PER_MULTIPLY_ADD


def _ms_deform_attn_backward_formula(
    grad_output: Any,
    value: Any,
    spatial_shapes: Any,
    sampling_locations: Any,
    attention_weights: Any,
    needs_value: bool,
    needs_locations: bool,
    needs_weights: bool,
    *,
    out_shape: Any,
) -> int:
    passes = needs_value + (needs_locations or needs_weights)
    return passes * _ms_deform_attn_multiply_adds(grad_output, sampling_locations) * _FLOPS_PER_MULTIPLY_ADD


if _extension.is_available():
    for _name, _formula in (
        ("dcnv4", _dcnv4_formula),
        ("dcnv4_backward", _dcnv4_backward_formula),
        ("ms_deform_attn", _ms_deform_attn_formula),
        ("ms_deform_attn_backward", _ms_deform_attn_backward_formula),
    ):
        register_flop_formula(getattr(torch.ops.flash_internimage, _name))(_formula)
