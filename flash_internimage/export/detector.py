"""A detector as a function of tensors alone, which ``torch.export`` can capture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.families import DetectorFamily
from flash_internimage.family_lookup import detector_families, detector_family
from flash_internimage.modeling.preprocessing import padding_rule


class ExportableDetector(nn.Module):
    """A detector as a function of tensors: padded images and their sizes -> detections, padded to a fixed number per image.

    Args:
        model: the detector.
        family: its family, whose field ``detect`` is set.
        max_detections: number of rows K of the result; None for the model's own maximum.

    Attributes:
        divisor: heights and widths of a batch are padded to multiples of this, in pixels.
        smallest_side: smallest height and width for a graph with dynamic sizes, in pixels.
    """

    def __init__(self, model: nn.Module, family: DetectorFamily, max_detections: int | None = None) -> None:
        super().__init__()
        if family.detect is None:
            raise UserError(f"export: detectors of the family {family.title} have no form for export; set detect in the family")
        self.model = model
        self.detect = family.detect
        self.max_detections = max_detections
        self.divisor = max(padding_rule(model.backbone)[0], 1)
        # torch.export specializes dimensions of size 1: they would be constants in the graph.
        side = 0 if family.smallest_side is None else family.smallest_side(model)
        self.smallest_side = max(side, 2 * self.divisor)

    @torch.no_grad()
    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: (N, 3, H, W) pixels on the scale of 0..255, in the channel order of the model; ``uint8`` or floating point.
                Each image is at the top left; pixels beyond its size are ignored.
            sizes: (N, 2) int64 (height, width) of each image.

        Returns:
            The fields of :class:`~flash_internimage.structures.DetectionTensors` in float32 and int64: boxes (N, K, 4) XYXY
            in pixels of ``images``, scores (N, K), classes (N, K), counts (N,) and, if the model predicts masks, their
            probabilities (N, K, S, S) within the boxes.
        """
        found = self.detect(self.model, images, sizes, self.max_detections)
        return tuple(field.float() if field.is_floating_point() else field for field in found if field is not None)


def exportable_detector(model: nn.Module, *, max_detections: int | None = None) -> ExportableDetector:
    """Return a detector as a function of tensors alone, in evaluation mode. It shares the parameters of ``model``.

    Args:
        model: a detector whose family has a function ``detect``. It is set to evaluation mode.
        max_detections: number of detections per image to return; None for the model's own maximum.

    Raises:
        UserError: the family of the model is unknown, or has no function ``detect``.
    """
    family = detector_family(model.state_dict())
    if family is None:
        known = ", ".join(sorted(known.title for known in detector_families() if known.detect is not None))
        raise UserError(
            f"export: the model should be of a family that can be exported ({known}), got {type(model).__name__}; "
            "register a DetectorFamily with detect for it"
        )
    return ExportableDetector(model.eval(), family, max_detections)
