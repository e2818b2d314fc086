"""Linear layer that calls oneDNN directly when nothing but its result is needed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import opaque
from .inference import is_plain_inference, onednn_dtypes


class Linear(nn.Linear):
    """``nn.Linear``; in inference on an x86 CPU, one oneDNN call computes product and bias.

    PyTorch's own path copies the bias to every row of the output and then adds the product to it, and computes products of
    float32 with MKL, which uses AVX-512 on CPUs of Intel only.

    Rules that match the exact type ``nn.Linear`` do not find these layers: name ``Linear`` in
    ``torch.ao.quantization.quantize_dynamic``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        if opaque.is_compiled_inference(input, *parameters):
            x = opaque.autocast_input(input)
            if all(parameter.dtype == x.dtype for parameter in parameters):
                return opaque.linear(x, self.weight, self.bias)
        if not is_plain_inference(input, *parameters):
            return super().forward(input)
        x = input
        if torch.is_autocast_enabled("cpu") and input.is_floating_point() and input.dtype != torch.float64:
            x = input.to(torch.get_autocast_dtype("cpu"))
        # Weights of another dtype are left to autocast, which casts each of them once per region.
        fits = x.dtype in onednn_dtypes() and all(parameter.dtype == x.dtype for parameter in parameters)
        if not fits or x.shape[-1:] != (self.in_features,) or not torch.backends.mkldnn.enabled:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
