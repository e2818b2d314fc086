"""Boxes and masks of images, beside ``detectron2.structures``: float64 boxes and masks shared by proposals."""

from .boxes import PreciseBoxes
from .masks import SharedMasks
from .window_masks import WindowMasks

__all__ = ["PreciseBoxes", "SharedMasks", "WindowMasks"]
