"""Objects drawn into pictures by detectron2's Visualizer, in the same color for the same class everywhere."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer

_LEGIBLE_SIDE = 480  # a picture whose longer side is shorter is enlarged to this, in pixels, so that labels are legible
_SMALLEST_FONT = 8  # points
_GAP = 8  # white pixels between two pictures


def class_color(number: int) -> tuple[float, float, float]:
    """RGB in 0..1. Steps of the golden ratio around the color circle keep the colors of few classes far apart."""
    return colorsys.hsv_to_rgb((0.08 + number * 0.618034) % 1, 0.75, 1.0)


def legible_scale(height: int, width: int) -> float:
    """How much a picture of this size, in pixels, is enlarged: 1 or more."""
    return max(1.0, _LEGIBLE_SIDE / max(height, width))


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    names: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    masks: Sequence[Any] | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """An image with boxes, labels and masks.

    Args:
        image: (H, W, 3) of ``uint8`` in RGB.
        boxes: (N, 4) XYXY in pixels.
        classes: of each object, an index into ``names``.
        names: of the classes.
        labels: text behind each object's class, such as its score.
        masks: of each object: a (H, W) array, COCO's polygons or a run-length mask.
        scale: magnification; None: enough for labels to be legible.

    Returns:
        (scale · H, scale · W, 3) of ``uint8`` in RGB.
    """
    scale = legible_scale(*image.shape[:2]) if scale is None else scale
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    colors = [class_color(c) for c in classes]
    visualizer = Visualizer(image, scale=scale)
    visualizer.overlay_instances(boxes=boxes, masks=masks if masks else None, assigned_colors=colors)
    labels = [""] * len(classes) if labels is None else labels
    for box, class_, label, color in zip(boxes, classes, labels, colors, strict=True):
        _write(visualizer, box, f"{names[class_]} {label}".strip(), color)
    return visualizer.output.get_image()


def _write(visualizer: Visualizer, box: np.ndarray, text: str, color: tuple[float, float, float]) -> None:
    """A label at the upper left corner of a box, or below it where it would hide the object."""
    height, width, scale = visualizer.output.height, visualizer.output.width, visualizer.output.scale
    points = max(_SMALLEST_FONT / scale, (height * width) ** 0.5 / 90)
    x0, y0, _, y1 = box
    is_small = (y1 - y0) < 4 * points
    y = y1 if is_small and y1 < height - 2 * points else y0
    text = text.replace("$", r"\$")  # it would start a formula
    pale = tuple(0.4 + 0.6 * part for part in color)  # legible on the black behind it
    visualizer.draw_text(text, (x0, y), font_size=points, color=pale, horizontal_alignment="left")


def draw_instances(
    image: np.ndarray, instances: Instances, names: Sequence[str], min_score: float = 0.0, scale: float | None = None
) -> np.ndarray:
    """What a detector found in an image: the fields ``pred_boxes``, ``pred_classes``, ``scores`` and perhaps ``pred_masks``."""
    kept = instances[instances.scores >= min_score].to("cpu")
    return draw_objects(
        image,
        kept.pred_boxes.tensor.numpy(),
        kept.pred_classes.tolist(),
        names,
        labels=[f"{score:.0%}" for score in kept.scores.tolist()],
        masks=list(kept.pred_masks.numpy()) if kept.has("pred_masks") else None,
        scale=scale,
    )


def draw_annotations(
    image: np.ndarray,
    annotations: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    class_of: Mapping[int, int] | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Objects in COCO's format, of the ground truth or (with ``score``) of predictions, drawn into their image.

    Args:
        annotations: with ``bbox`` (XYWH in pixels, unless ``bbox_mode`` says otherwise), ``category_id`` and, perhaps,
            ``segmentation``, ``score`` and ``iscrowd``.
        names: of the classes.
        class_of: the class of each category id; None: the ids are the classes.
    """
    boxes = [BoxMode.convert(list(a["bbox"]), a.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYXY_ABS) for a in annotations]
    classes = [a["category_id"] if class_of is None else class_of[a["category_id"]] for a in annotations]
    with_masks = all(a.get("segmentation") for a in annotations)
    return draw_objects(
        image,
        np.array(boxes),
        classes,
        names,
        labels=[_label(a) for a in annotations],
        masks=[a["segmentation"] for a in annotations] if with_masks else None,
        scale=scale,
    )


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one height as one, with a white gap between them."""
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of any sizes on a white page, in about as many rows as columns."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = (max(picture.shape[axis] for picture in pictures) + _GAP for axis in (0, 1))
    page = np.full((rows * height - _GAP, columns * width - _GAP, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height, number % columns * width
        page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page


def _label(annotation: Mapping[str, Any]) -> str:
    if "score" in annotation:
        return f"{annotation['score']:.0%}"
    return "(crowd)" if annotation.get("iscrowd") else ""
