"""A detector that runs a model on the views of an image and merges their detections."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from flash_internimage.structures import WindowMasks

from .batching import detect_in_batches, padding_divisor
from .mapper import ImageViews
from .merging import merge
from .plan import View, cut_edges

IOU_THRESHOLD = 0.5
"""IoU above which two detections of a class are one object; the threshold of the models' own NMS."""

_MAX_BITMAP = 2**22  # pixels of a mask that a model returns; those of larger windows are scaled up
_EDGE = 1.0  # pixels from the edge of a window within which a box touches it, in the window as the model sees it


class ViewsDetector(nn.Module):
    """Runs a detector on the views of each image and merges the detections.

    Args:
        model: a detector with detectron2's interface.
        batch_size: views per batch.
        min_score: detections with lower scores are dropped before the merging.
        iou_threshold: see :func:`.merge`.
    """

    def __init__(
        self, model: nn.Module, batch_size: int = 1, min_score: float = 0.0, iou_threshold: float = IOU_THRESHOLD
    ) -> None:
        super().__init__()
        self.model = model
        self.batch_size = batch_size
        self.min_score = min_score
        self.iou_threshold = iou_threshold

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect objects.

        Args:
            batched_inputs: samples of a :class:`.ViewsMapper`.

        Returns:
            ``{"instances": Instances}`` for each image, as the model returns them, on the CPU and by descending score;
            ``pred_masks`` are :class:`.WindowMasks`.
        """
        return [{"instances": self._detect(sample["views"])} for sample in batched_inputs]

    def _detect(self, views: ImageViews) -> Instances:
        samples = (_sample(pixels, view) for view, pixels in views)
        outputs = detect_in_batches(self.model, samples, self.batch_size, padding_divisor(self.model))
        found = []
        most: defaultdict[Any, int] = defaultdict(int)  # detections of a window in one of its views: the limit of the model
        for view, output in zip(views.views, outputs, strict=True):
            instances = output["instances"]
            instances = instances[instances.scores >= self.min_score].to("cpu")
            most[view.window] = max(most[view.window], len(instances))
            found.append(in_image(instances, view, views.size))
        return merge(found, self.iou_threshold, limit=sum(most.values()))


def _sample(pixels: Tensor, view: View) -> dict[str, Any]:
    """Input of the model for a view. Detections come in the size of the window, or in a smaller one if it is large."""
    x0, y0, x1, y1 = view.window
    shrink = min(1.0, math.sqrt(_MAX_BITMAP / ((x1 - x0) * (y1 - y0))))
    height, width = (max(int(side * shrink), 1) for side in (y1 - y0, x1 - x0))
    return {"image": pixels, "height": height, "width": width}


def in_image(instances: Instances, view: View, image_size: tuple[int, int]) -> Instances:
    """Detections of a view, in pixels of the image.

    Args:
        instances: detections on the CPU, in an image of any size that shows the view.
        view: the view.
        image_size: (height, width) of the image in pixels.

    Returns:
        ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks`` (:class:`.WindowMasks`) if there are masks, and ``is_cut``:
        whether a box touches an edge of the window inside of the image, where its object may continue.
    """
    x0, y0, x1, y1 = view.window
    height, width = instances.image_size
    boxes = instances.pred_boxes.tensor.clone()
    masks = instances.pred_masks if instances.has("pred_masks") else None
    if view.flipped:
        boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
        masks = None if masks is None else masks.flip(2)
    scale = boxes.new_tensor([(x1 - x0) / width, (y1 - y0) / height]).repeat(2)
    boxes = boxes * scale
    result = Instances(image_size)
    result.pred_boxes = Boxes(boxes + boxes.new_tensor([x0, y0, x0, y0]))
    result.scores = instances.scores
    result.pred_classes = instances.pred_classes
    if masks is not None:
        result.pred_masks = WindowMasks.from_bitmaps(masks, view.window, image_size)
    result.is_cut = _touches(boxes, view, image_size)
    return result


def _touches(boxes: Tensor, view: View, image_size: tuple[int, int]) -> Tensor:
    """Whether boxes in pixels of the window touch one of the window's edges inside of the image."""
    x0, y0, x1, y1 = view.window
    gaps = torch.cat([boxes[:, :2], boxes.new_tensor([x1 - x0, y1 - y0]) - boxes[:, 2:]], dim=1)
    return ((gaps <= _EDGE) & torch.tensor(cut_edges(view.window, *image_size))).any(dim=1)
