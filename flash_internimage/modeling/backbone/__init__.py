"""Backbones: detectron2 ``Backbone`` modules that map an image to named feature maps."""

from .flash_internimage import FlashInternImage

__all__ = ["FlashInternImage"]
