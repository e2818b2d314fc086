"""Checkpoints: reading, recognising, renaming, writing."""

from .checkpointer import Checkpointer
from .reading import CheckpointError, read_checkpoint

__all__ = ["CheckpointError", "Checkpointer", "read_checkpoint"]
