"""Visualizations of ground truth and detections on validation images, for TensorBoard and other event writers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from flash_internimage.images import read_rgb

from .coco import FastCOCOEvaluator
from .drawing import draw_annotations, draw_instances, side_by_side


class ValidationVisualizer(DatasetEvaluator):
    """Draws detections beside ground truth for the first images with objects, the same images in every evaluation.

    Args:
        evaluator: evaluator with the ground truth.
        number: number of images, taken from those of the main process.
        min_score: detections with a lower score are not drawn.
    """

    def __init__(self, evaluator: FastCOCOEvaluator, number: int, min_score: float = 0.5) -> None:
        self._evaluator = evaluator
        self._number = number if comm.is_main_process() else 0
        self._min_score = min_score
        self._shown: list[tuple[dict[str, Any], Instances]] = []

    def reset(self) -> None:
        self._shown = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        for given, found in zip(inputs, outputs, strict=True):
            if len(self._shown) < self._number and self._evaluator.annotations_of(given["image_id"]):
                instances = found["instances"]
                self._shown.append((given, instances[instances.scores >= self._min_score].to("cpu")))

    def evaluate(self) -> dict[str, Any]:
        """Put the visualizations into the event storage; returns no metrics."""
        storage = get_event_storage()
        for given, instances in self._shown:
            drawn = self._draw(given, instances)
            storage.put_image(f"validation/{Path(given['file_name']).stem}", np.ascontiguousarray(drawn.transpose(2, 0, 1)))
        self._shown = []
        return {}

    def _draw(self, given: dict[str, Any], instances: Instances) -> np.ndarray:
        image = read_rgb(given["file_name"])
        categories, annotations = self._evaluator.categories, self._evaluator.annotations_of(given["image_id"])
        assert categories is not None  # an evaluator of a dataset with annotations
        truth = draw_annotations(image, annotations, categories.names, categories.class_of)
        return side_by_side(truth, draw_instances(image, instances, categories.names))
