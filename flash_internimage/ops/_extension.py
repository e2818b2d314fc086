"""The compiled library, which need not be there until an operator is called.

Importing this package must work where nothing was compiled, so a failure to load is kept, and raised with its cause by
the first call that needs the library.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from flash_internimage.errors import UserError

_load_error: ImportError | None = None

try:
    # Loading the library is what registers torch.ops.flash_internimage.
    from flash_internimage import _C
except ImportError as error:
    _load_error = error


def is_available() -> bool:
    """Whether the compiled library was loaded."""
    return _load_error is None


def require(name: str) -> None:
    """Raise unless the compiled library was loaded.

    Args:
        name: the operator that needs it, for the message.

    Raises:
        UserError: with the loader's own message, which tells a library that was never built from one that was built
            for another Python or PyTorch.
    """
    if _load_error is not None:
        raise UserError(
            f"{name}: the compiled library flash_internimage._C could not be loaded ({_load_error}); build it with "
            "`pip install --no-build-isolation -e .` in the folder of setup.py, with the PyTorch that is used now"
        ) from _load_error


def operator(name: str, *tensors: Tensor) -> Callable[..., Any]:
    """The operator to call with these tensors.

    That is the bound C++ function, because torch.ops takes longer to call than a small kernel to run; but torch.ops where
    the call is to be traced or overridden, which a bound function would not show.

    Raises:
        UserError: as :func:`require`.
    """
    require(name)
    if torch.compiler.is_compiling() or has_torch_function(tensors):
        return getattr(torch.ops.flash_internimage, name)
    return getattr(_C, name)
