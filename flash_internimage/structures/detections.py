"""Detections of a batch as tensors of fixed sizes, for models that run outside of Python."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DetectionTensors(NamedTuple):
    """Detections of N images, padded to K per image.

    The rows of an image are sorted by descending score. Rows from ``counts`` on are padding, in which everything is zero.

    Attributes:
        boxes: (N, K, 4) XYXY in pixels of the input images.
        scores: (N, K).
        classes: (N, K) int64.
        counts: (N,) int64 numbers of detections.
        masks: (N, K, S, S) mask probabilities within the boxes; None for a detector without masks.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    counts: Tensor
    masks: Tensor | None = None
