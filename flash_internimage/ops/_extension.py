"""Lazy access to the compiled library ``flash_internimage._C``.

The package must be importable without the compiled library, so an import failure is stored here and raised, with its
cause, by the first call that needs the library.
"""

import importlib.util
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from flash_internimage.errors import UserError

_load_error: ImportError | None = None

try:
    # Loading the library registers torch.ops.flash_internimage.
    from flash_internimage import _C
except ImportError as error:
    _load_error = error

_REBUILD = (
    "build it again with `pip install --no-build-isolation --force-reinstall --no-deps .` in the folder of setup.py, with "
    "the PyTorch that is used now"
)


def torch_of(library: Path) -> str | None:
    """The PyTorch version that a compiled library was built for, read from its file; None if it has none."""
    found = re.search(rb"flash_internimage built for torch ([\w.]+)", library.read_bytes())
    return found[1].decode() if found else None


def mismatch(library: Path) -> str | None:
    """One sentence if a compiled library was built for another minor version of PyTorch, otherwise None."""
    built, used = torch_of(library), torch.__version__.split("+")[0]
    if built is None or built.split(".")[:2] == used.split(".")[:2]:
        return None
    return f"flash_internimage was built for torch {built}, and this is torch {used}; {_REBUILD}"


_spec = importlib.util.find_spec("flash_internimage._C")
_mismatch = mismatch(Path(_spec.origin)) if _load_error is not None and _spec is not None and _spec.origin else None
if _mismatch is not None:
    warnings.warn(_mismatch, stacklevel=2)


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
        reason = _mismatch or f"the compiled library flash_internimage._C could not be loaded ({_load_error}); {_REBUILD}"
        raise UserError(f"{name}: {reason}") from _load_error


def operator(name: str, *tensors: Tensor) -> Callable[..., Any]:
    """Return the callable of an operator for these tensors.

    The function bound by pybind11 is returned by default: a call through torch.ops takes longer than a small kernel runs.
    torch.ops is returned when the call is compiled or intercepted by ``__torch_function__``, to which the bound function
    would be invisible.

    Raises:
        UserError: the library could not be loaded; see :func:`require`.
    """
    require(name)
    if torch.compiler.is_compiling() or has_torch_function(tensors):
        return getattr(torch.ops.flash_internimage, name)
    return getattr(_C, name)
