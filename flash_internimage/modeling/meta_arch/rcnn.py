"""Two-stage meta-architecture of Mask R-CNN and Cascade Mask R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList


class RCNN(GeneralizedRCNN):
    """detectron2's ``GeneralizedRCNN``, except that images are normalized in float32 for any dtype of the network.

    MMDetection normalizes in float32 even if the network is in double precision. The rounding matters for gradients: near
    a kink of bilinear sampling, a rounding error in the image selects another slope.

    Args:
        backbone, proposal_generator, roi_heads, pixel_mean, pixel_std, input_format: as in ``GeneralizedRCNN``.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize the images, then zero-pad them at the right and bottom to one size divisible by the backbone's strides."""
        mean, std = self.pixel_mean.float(), self.pixel_std.float()
        images = [(entry["image"].to(self.device) - mean) / std for entry in batched_inputs]
        images = [image.to(self.pixel_mean.dtype) for image in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)
