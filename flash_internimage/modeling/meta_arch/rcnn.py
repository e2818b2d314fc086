"""Two-stage meta-architecture of Mask R-CNN and Cascade Mask R-CNN."""

from __future__ import annotations

from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor

from flash_internimage.modeling.preprocessing import normalize_and_pad, normalize_and_pad_batch
from flash_internimage.structures import DetectionTensors


class RCNN(GeneralizedRCNN):
    """detectron2's ``GeneralizedRCNN``, except that images are normalized in float32 for any dtype of the network.

    Args:
        backbone, proposal_generator, roi_heads, pixel_mean, pixel_std, input_format: as in ``GeneralizedRCNN``.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """See :func:`~flash_internimage.modeling.preprocessing.normalize_and_pad`."""
        images = [entry["image"] for entry in batched_inputs]
        return normalize_and_pad(images, self.pixel_mean, self.pixel_std, self.backbone)

    def detect(self, images: Tensor, sizes: Tensor, max_detections: int | None = None) -> DetectionTensors:
        """Equivalent of :meth:`inference` as a function of tensors, for export; see ``flash_internimage.families``."""
        batch = normalize_and_pad_batch(images, sizes, self.pixel_mean, self.pixel_std, self.backbone)
        features = self.backbone(batch)
        proposals, valid = self.proposal_generator.propose(features, sizes)
        return self.roi_heads.detect(features, proposals, valid, sizes, max_detections)
