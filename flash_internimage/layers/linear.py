"""Linear layer that calls oneDNN directly when nothing but its result is needed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula


class Linear(nn.Linear):
    """``nn.Linear``; in inference on an x86 CPU, one oneDNN call computes product and bias.

    PyTorch's own path copies the bias to every row of the output and then adds the product to it, and computes products of
    float32 with MKL, which uses AVX-512 on CPUs of Intel only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        if not reuses_memory(input):
            return super().forward(input)
        x = input.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else input
        # Weights of another dtype are left to autocast, which casts each of them once per region.
        fits = x.shape[-1:] == (self.in_features,) and x.dtype == self.weight.dtype and x.dtype in _onednn_dtypes()
        if not fits or not torch.backends.mkldnn.enabled:
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def reuses_memory(x: Tensor) -> bool:
    """Whether memory may be overwritten in computing from ``x``: on a CPU, seen by no autograd, compiler or tracer."""
    return x.is_cpu and not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())


@cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Dtypes that oneDNN's kernels for x86 multiply natively."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return ()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32, torch.bfloat16)
    return (torch.float32,)


def _linear_flops(x: Any, weight: Any, *args: Any, out_shape: Any) -> int:
    """PyTorch's count of a product: two FLOPs per multiply-add."""
    return 2 * math.prod(out_shape) * int(weight[1])


# PyTorch counts no FLOPs of this operator, so that FlopCounterMode would miss every linear layer in inference.
if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_linear_flops)
