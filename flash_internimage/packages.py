"""Imports of packages: optional ones with a message that says how to install them, detectron2 without warnings."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

from flash_internimage.errors import UserError

EXTRAS = {
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "app": ["gradio"],
    "clearml": ["clearml"],
    "lora": ["peft"],
    "mlflow": ["mlflow"],
    "track": ["trackers"],
}
"""Packages of the extras of ``pyproject.toml`` that the code imports."""


def require(name: str, purpose: str) -> ModuleType:
    """Import a package of an extra, or one that is not part of any.

    Args:
        purpose: start of the message, such as "export to ONNX".

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        extra = next((extra for extra, packages in EXTRAS.items() if name in packages), None)
        packages = " ".join([name] if extra is None else EXTRAS[extra])
        of_extra = "" if extra is None else f" (the extra [{extra}])"
        raise UserError(f"{purpose} needs {name}, which is not installed; pip install {packages}{of_extra}") from None


def ignore_script_warnings() -> None:
    """Ignore that PyTorch 2.14 warns when detectron2 is imported, whose functions it compiles with ``torch.jit.script``.

    Users cannot change that. The filter lasts until the end of ``warnings.catch_warnings``, or of the process.
    """
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
