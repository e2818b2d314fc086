"""Data structures that extend ``detectron2.structures``: float64 boxes, shared masks, and selection of instances."""

from .boxes import PreciseBoxes
from .detections import DetectionTensors
from .instances import select
from .masks import SharedMasks
from .window_masks import WindowMasks

__all__ = ["DetectionTensors", "PreciseBoxes", "SharedMasks", "WindowMasks", "select"]
