"""Checkpoints: reading, recognizing, renaming and writing them."""

from .checkpointer import Checkpointer
from .convert import convert_checkpoint
from .formats import class_names_of
from .reading import CheckpointError, read_checkpoint

__all__ = ["CheckpointError", "Checkpointer", "class_names_of", "convert_checkpoint", "read_checkpoint"]
