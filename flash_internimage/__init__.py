"""DCNv4 and FlashInternImage for detectron2."""

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    """Import ``Predictor`` when it is first used: it needs detectron2, which takes seconds to import."""
    if name == "Predictor":
        from .packages import ignore_script_warnings

        with warnings.catch_warnings():
            ignore_script_warnings()
            from .inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
