"""The backbone and the parts of detectors that detectron2 lacks."""

from .flash_intern_image import FlashInternImage

__all__ = ["FlashInternImage"]
