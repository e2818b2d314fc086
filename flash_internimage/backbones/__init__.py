"""FlashInternImage as modules of PyTorch alone, and as feature extractors with the conventions of timm.

Nothing here imports detectron2; :mod:`flash_internimage.modeling.backbone` wraps it as a detectron2 ``Backbone``.
"""

from .feature_extractor import (
    FeatureExtractor,
    FeatureInfo,
    flash_intern_image_b,
    flash_intern_image_l,
    flash_intern_image_s,
    flash_intern_image_t,
)

__all__ = [
    "FeatureExtractor",
    "FeatureInfo",
    "flash_intern_image_b",
    "flash_intern_image_l",
    "flash_intern_image_s",
    "flash_intern_image_t",
]
