"""Data structures that extend ``detectron2.structures``: float64 boxes, and masks shared by several boxes."""

from .boxes import PreciseBoxes
from .masks import SharedMasks
from .window_masks import WindowMasks

__all__ = ["PreciseBoxes", "SharedMasks", "WindowMasks"]
