"""Conditions under which inference on a CPU may take paths that autograd, compilers, tracers and hooks could not follow."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from flash_internimage.ops import _transforms

_PLAIN = (Tensor, nn.Parameter)


def is_plain_inference(*tensors: Tensor) -> bool:
    """Whether a computation with these tensors needs nothing but its values.

    They are dense tensors on a CPU, and there is no gradient, no function transform, no dispatch mode (``FlopCounterMode``,
    ``make_fx``), no compiler and no tracer.
    """
    return (
        not torch.is_grad_enabled()
        and all(type(tensor) in _PLAIN and tensor.is_cpu and tensor.layout is torch.strided for tensor in tensors)
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing() or _transforms.are_active())
        and torch._C._len_torch_dispatch_stack() == 0
    )


def _has_any_global_hook() -> bool:
    """Whether there are forward hooks of all modules. PyTorch has such a function, but 2.6 does not."""
    return bool(_global_forward_hooks or _global_forward_pre_hooks)


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a hook sees the inputs or outputs of one of the modules, and may keep them."""
    return _has_any_global_hook() or any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@cache
def onednn_dtypes() -> tuple[torch.dtype, ...]:
    """Dtypes that oneDNN's kernels for x86 multiply natively."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return ()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32, torch.bfloat16)
    return (torch.float32,)
