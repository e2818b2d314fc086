"""Operators that ``torch.compile`` does not look into, for inference on a CPU.

The code that Inductor generates for layer norms and GELU takes two to three times as long as PyTorch's own kernels, and its
matrix products are MKL's, since it accepts oneDNN's for constant weights only. These operators keep what the layers do without
compilation. Exported programs contain standard operators instead (:func:`is_compiled_inference`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inference import onednn_dtypes

CHUNK_SIZE = 4096
"""Positions per chunk of an MLP: 4 MB of hidden features in the first stage of T.

Smaller chunks would slow down the matrix products of the later stages (benchmarks/backbone_cpu.py).
"""

# PyTorch 2.6 has no such function, and that of 2.11 is also true inside torch.compile: both compile standard operators.
_KNOWS_EXPORT = hasattr(torch.compiler, "is_exporting")


def is_compiled_inference(*tensors: Tensor) -> bool:
    """Whether ``torch.compile`` traces a computation that runs on a CPU without gradients, and not to export it."""
    return (
        _KNOWS_EXPORT
        and torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not torch.is_grad_enabled()
        and all(tensor.is_cpu for tensor in tensors)
    )


def autocast_input(input: Tensor) -> Tensor:
    """Cast the input of a linear layer as autocast does."""
    is_cast = torch.is_autocast_enabled("cpu") and input.dtype != torch.float64
    return input.to(torch.get_autocast_dtype("cpu")) if is_cast else input


@torch.library.custom_op(
    "flash_internimage::compiled_linear", mutates_args=(), schema="(Tensor input, Tensor weight, Tensor? bias) -> Tensor"
)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``; all tensors have the same dtype."""
    return _linear(input, weight, bias)


@linear.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


@torch.library.custom_op(
    "flash_internimage::compiled_layer_norm",
    mutates_args=(),
    schema="(Tensor input, Tensor weight, Tensor bias, float eps) -> Tensor",
)
def layer_norm(input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize over the last dimension."""
    return F.layer_norm(input, weight.shape, weight, bias, eps)


@layer_norm.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return input.new_empty(input.shape)


@torch.library.custom_op("flash_internimage::compiled_gelu", mutates_args=(), schema="(Tensor input) -> Tensor")
def gelu(input: Tensor) -> Tensor:
    """Exact (not tanh-approximated) GELU."""
    return F.gelu(input)


@gelu.register_fake
def _(input: Tensor) -> Tensor:
    return torch.empty_like(input)


@torch.library.custom_op(
    "flash_internimage::compiled_mlp_branch",
    mutates_args=(),
    schema="(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor[] fc1, Tensor[] fc2, Tensor? gamma, float eps, "
    "bool post_norm) -> Tensor",
)
def mlp_branch(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1: list[Tensor],
    fc2: list[Tensor],
    gamma: Tensor | None,
    eps: float,
    post_norm: bool,
) -> Tensor:
    """``x + gamma * MLP(norm(x))``, or with ``post_norm`` ``x + gamma * norm(MLP(x))``, in chunks of positions.

    Args:
        x: (N, H, W, C).
        norm_weight, norm_bias: (C,).
        fc1, fc2: weight and, if there is one, bias of the linear layers.
        gamma: (C,); None for 1.
        eps: of the norm.
        post_norm: whether to normalize after the MLP.
    """
    chunks = x.reshape(-1, x.shape[-1])
    result = torch.empty_like(chunks)
    scale = x.new_ones(1) if gamma is None else gamma
    for chunk, to in zip(chunks.split(CHUNK_SIZE), result.split(CHUNK_SIZE), strict=True):
        normed = chunk if post_norm else F.layer_norm(chunk, norm_weight.shape, norm_weight, norm_bias, eps)
        hidden = torch.ops.aten.gelu_(_linear(normed.to(fc1[0].dtype), *fc1))
        branch = _linear(hidden, *fc2)
        if post_norm:
            branch = F.layer_norm(branch, norm_weight.shape, norm_weight, norm_bias, eps)
        torch.addcmul(chunk, branch.to(chunk.dtype), scale, out=to)
    return result.view(x.shape)


@mlp_branch.register_fake
def _(x: Tensor, *_parameters: object) -> Tensor:
    return x.new_empty(x.shape)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if input.dtype in onednn_dtypes() and torch.backends.mkldnn.enabled:
        return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return F.linear(input, weight, bias)
