"""Two-stage meta-architecture of Mask R-CNN and Cascade Mask R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList

from flash_internimage.modeling.preprocessing import normalize_and_pad


class RCNN(GeneralizedRCNN):
    """detectron2's ``GeneralizedRCNN``, except that images are normalized in float32 for any dtype of the network.

    Args:
        backbone, proposal_generator, roi_heads, pixel_mean, pixel_std, input_format: as in ``GeneralizedRCNN``.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """See :func:`~flash_internimage.modeling.preprocessing.normalize_and_pad`."""
        images = [entry["image"] for entry in batched_inputs]
        return normalize_and_pad(images, self.pixel_mean, self.pixel_std, self.backbone)
