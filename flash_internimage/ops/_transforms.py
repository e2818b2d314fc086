"""The operators under the function transforms of ``torch.func`` and in forward-mode differentiation.

PyTorch's function transforms and forward mode refuse autograd functions that are written in C++, as those of the operators are.
Calls under either are routed here, to a Python function around the same forward and backward kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flash_internimage.errors import UserError

_LOW_PRECISION = (torch.float16, torch.bfloat16)


def are_active() -> bool:
    """Whether the current call is under a transform of ``torch.func`` or in a level of forward-mode differentiation."""
    # Neither has a public query; torch.autograd.Function.apply uses the former.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def apply(name: str, *arguments: Any) -> Tensor:
    """Call an operator with the arguments of its schema.

    Reverse-mode transforms and ``vmap`` give what they give for any PyTorch function.

    Raises:
        UserError: on forward-mode differentiation, and on a second derivative.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    settings = tuple(None if isinstance(argument, Tensor) else argument for argument in arguments)
    output: Tensor = _Differentiable.apply(_Call(name, settings), *_autocast(tensors))
    return output


@dataclass(frozen=True)
class _Call:
    """The arguments of a call that are not tensors, as one object, which transforms do not take apart.

    Attributes:
        settings: the arguments in the order of the schema, None in place of tensors.
        needed: which tensors need a gradient; only for the backward pass.
    """

    name: str
    settings: tuple[Any, ...]
    needed: tuple[bool, ...] = ()

    def forward(self, tensors: Sequence[Tensor]) -> Any:
        return getattr(torch.ops.flash_internimage, self.name)(*self._arguments(tensors))

    def backward(self, grad_output: Tensor, tensors: Sequence[Tensor]) -> Any:
        operator = getattr(torch.ops.flash_internimage, f"{self.name}_backward")
        return operator(grad_output, *self._arguments(tensors), *self.needed)

    def _arguments(self, tensors: Sequence[Tensor]) -> list[Any]:
        remaining = iter(tensors)
        return [next(remaining) if setting is None else setting for setting in self.settings]


class _Differentiable(torch.autograd.Function):
    """An operator that can be differentiated once, in reverse mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: _Call, *tensors: Tensor) -> Any:
        return call.forward(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        needed = tuple(ctx.needs_input_grad[1:])
        call = _Call(ctx.call.name, ctx.call.settings, needed)
        gradients = _Gradients.apply(call, grad_output, *ctx.saved_tensors)
        return None, *(gradient if wanted else None for gradient, wanted in zip(gradients, needed, strict=True))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise UserError(
            f"{ctx.call.name}: forward-mode differentiation (torch.func.jvp, jacfwd, hessian, torch.autograd.forward_ad) is "
            "not implemented; use reverse mode (torch.func.grad, vjp, jacrev, also under vmap)"
        )


class _Gradients(torch.autograd.Function):
    """The gradients of an operator, which cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: _Call, grad_output: Tensor, *tensors: Tensor) -> Any:
        return call.backward(grad_output, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise _second_derivative(ctx.call.name)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise _second_derivative(ctx.call.name)


def _second_derivative(name: str) -> UserError:
    return UserError(
        f"{name}: double backward is not implemented, got a request for the gradient of its gradient; use first derivatives "
        "only (torch.func.grad, vjp, jacrev, also under vmap)"
    )


def _autocast(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Convert the tensors as the operators' autocast rule in C++ does; transforms need the conversion outside the function."""
    value, *points = tensors
    device = value.device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    if value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device))
    return [value, *(p.float() if p.dtype in _LOW_PRECISION and p.dtype != value.dtype else p for p in points)]
