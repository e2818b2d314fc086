"""Checkpoints: reading, recognizing, renaming and writing them."""

from typing import TYPE_CHECKING, Any

from .formats import class_names_of
from .reading import CheckpointError, read_checkpoint

if TYPE_CHECKING:
    from .checkpointer import Checkpointer
    from .convert import convert_checkpoint

__all__ = ["CheckpointError", "Checkpointer", "class_names_of", "convert_checkpoint", "read_checkpoint"]


def __getattr__(name: str) -> Any:
    """Import classes that need detectron2 on first use, so that backbones can be loaded without it."""
    if name == "Checkpointer":
        from .checkpointer import Checkpointer

        return Checkpointer
    if name == "convert_checkpoint":
        from .convert import convert_checkpoint

        return convert_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
