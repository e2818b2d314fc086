"""What every operator registers with PyTorch beside its kernels: shapes for tracing, autograd and autocast."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _extension

LIBRARY = "flash_internimage"
LOW_PRECISION = (torch.float16, torch.bfloat16)

_AUTOCAST_DEVICES = ("CPU", "CUDA")

# PyTorch forgets implementations whose library object is gone.
_implementations = torch.library.Library(LIBRARY, "IMPL") if _extension.is_available() else None


def register(
    name: str,
    *,
    fake_forward: Callable[..., Tensor],
    fake_backward: Callable[..., tuple[Tensor, ...]],
    save_for_backward: Callable[[Any, tuple, Tensor], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
    autocast: Callable[..., tuple],
) -> None:
    """Register an operator ``name`` whose gradient is the operator ``name + "_backward"``.

    Without the compiled library there are no operators, and nothing is registered.

    Args:
        fake_forward, fake_backward: the operators' arguments -> tensors of the shapes and dtypes that they return.
        save_for_backward, backward: as `torch.library.register_autograd` takes them.
        autocast: the operator's arguments -> those to call it with under autocast. (`torch.library.register_autocast` would
            cast every tensor, and with it the sampling points, which need more precision than the values.)
    """
    if _implementations is None:
        return
    torch.library.register_fake(f"{LIBRARY}::{name}", fake_forward)
    torch.library.register_fake(f"{LIBRARY}::{name}_backward", fake_backward)
    torch.library.register_autograd(f"{LIBRARY}::{name}", backward, setup_context=save_for_backward)
    torch.library.register_autograd(f"{LIBRARY}::{name}_backward", _refuse_double_backward(name))
    for device in _AUTOCAST_DEVICES:
        _implementations.impl(name, _cast_and_call(name, autocast, device), f"Autocast{device}")


def to_autocast_dtype(value: Tensor) -> Tensor:
    """Values in the dtype of the autocast region; float64 is left alone, as PyTorch does."""
    return value if value.dtype == torch.float64 else value.to(torch.get_autocast_dtype(value.device.type))


def _refuse_double_backward(name: str) -> Callable[..., None]:
    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{name}: double backward is not implemented, got a request for the gradient of its gradient; "
            "use create_graph=False, or torch.autograd.functional with first derivatives only"
        )

    return refuse


def _cast_and_call(name: str, autocast: Callable[..., tuple], device: str) -> Callable[..., Tensor]:
    without_autocast = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device}"))
    operator = getattr(torch.ops.flash_internimage, name)

    def call(*arguments: Any) -> Tensor:
        arguments = autocast(*arguments)
        with torch._C._ExcludeDispatchKeyGuard(without_autocast):
            return operator(*arguments)

    return call
