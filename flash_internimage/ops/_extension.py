"""Lazy access to the compiled library ``flash_internimage._C``.

The package must be importable without the compiled library, so an import failure is stored here and raised, with its
cause, by the first call that needs the library.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from flash_internimage.errors import UserError

from . import _transforms

_load_error: ImportError | None = None

try:
    # Loading the library registers torch.ops.flash_internimage.
    from flash_internimage import _C
except ImportError as error:
    _load_error = error


def is_available() -> bool:
    """Whether the compiled library was loaded."""
    return _load_error is None


def require(name: str) -> None:
    """Raise an error unless the compiled library was loaded.

    Args:
        name: the operator that needs the library, for the message.

    Raises:
        UserError: the library could not be loaded. The message quotes the loader, which distinguishes a library that was
            never built from one that was built for another Python or PyTorch.
    """
    if _load_error is not None:
        raise UserError(
            f"{name}: the compiled library flash_internimage._C could not be loaded ({_load_error}); build it with "
            "`pip install --no-build-isolation -e .` in the folder of setup.py, with the PyTorch that is used now"
        ) from _load_error


def operator(name: str, *tensors: Tensor) -> Callable[..., Any]:
    """Return the callable of an operator for these tensors.

    The function bound by pybind11 is returned by default: a call through torch.ops takes longer than a small kernel runs.
    torch.ops is returned when the call is compiled or intercepted by ``__torch_function__``, to which the bound function
    would be invisible. Transforms of ``torch.func`` and forward-mode differentiation have a function of their own
    (:mod:`._transforms`).

    Raises:
        UserError: the library could not be loaded; see :func:`require`.
    """
    require(name)
    if torch.compiler.is_compiling() or has_torch_function(tensors):
        return getattr(torch.ops.flash_internimage, name)
    if _transforms.are_active():
        return functools.partial(_transforms.apply, name)
    return getattr(_C, name)
