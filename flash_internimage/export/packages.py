"""Imports of the optional packages of ``[export]``, with a message that says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from flash_internimage.errors import UserError


def require(name: str, purpose: str) -> ModuleType:
    """Import a package of the extra ``[export]``, or one that only some targets need.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        others = "onnx onnxscript onnxruntime" if name in ("onnx", "onnxscript", "onnxruntime") else name
        raise UserError(
            f"{purpose} needs {name}, which is not installed; pip install {others}"
            + (", the packages of the extra [export]" if others != name else "")
        ) from None
