"""Evaluation of an exported file in place of a checkpoint."""

from __future__ import annotations

from typing import Any

from detectron2.config import LazyCall as L

from flash_internimage.data import FitWithin, ResizeToFit, TestMapper
from flash_internimage.export.metadata import Metadata


def mapper_node(metadata: Metadata) -> Any:
    """The config node of the mapper that resizes test images as an exported file takes them."""
    if metadata.height is not None and metadata.width is not None:
        return L(TestMapper)(augmentations=[L(FitWithin)(height=metadata.height, width=metadata.width)])
    return L(TestMapper)(augmentations=[L(ResizeToFit)(short_sides=[metadata.short_side], long_side=metadata.long_side)])
