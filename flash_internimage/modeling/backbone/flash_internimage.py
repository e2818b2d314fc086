"""FlashInternImage as a detectron2 backbone."""

from __future__ import annotations

from detectron2.modeling import Backbone

from flash_internimage.backbones.flash_internimage import FlashInternImageBase


class FlashInternImage(FlashInternImageBase, Backbone):
    """FlashInternImage as a detectron2 ``Backbone``, for a feature pyramid or a detector.

    Arguments and features are those of :class:`~flash_internimage.backbones.flash_internimage.FlashInternImageBase`.
    """
