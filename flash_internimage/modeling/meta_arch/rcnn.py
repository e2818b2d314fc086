"""The two-stage meta-architecture, with images normalized as published."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList


class RCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that normalizes images in float32 whatever the dtype of the network.

    The original normalizes in float32 in double precision too, and bilinear sampling has kinks, at which one rounding more
    or less in the image changes gradients.

    Args:
        backbone, proposal_generator, roi_heads, pixel_mean, pixel_std, input_format: as in ``GeneralizedRCNN``.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, then pad with zeros at the right and bottom to one size that the backbone's strides divide."""
        mean, std = self.pixel_mean.float(), self.pixel_std.float()
        images = [(entry["image"].to(self.device) - mean) / std for entry in batched_inputs]
        images = [image.to(self.pixel_mean.dtype) for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)
