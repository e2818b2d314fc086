"""Backbones: detectron2 ``Backbone`` modules that compute named feature maps from images."""

from .flash_internimage import FlashInternImage

__all__ = ["FlashInternImage"]
