"""Visualization of objects with detectron2's Visualizer, with one fixed color per class."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib.transforms import Bbox
from PIL import Image
from torch import Tensor

from flash_internimage.files import write_atomically
from flash_internimage.structures import WindowMasks, select

_LEGIBLE_SIDE = 480  # pixels to which the longer side of a small image is enlarged, so that labels are legible
_LARGEST_SIDE = 4096  # pixels of the longer side above which an image is shrunk: matplotlib needs about 120 bytes per pixel
_MIN_FONT_SIZE = 8  # points
_LABEL_MARGIN = 2  # pixels around the text of a label
_GAP = 8  # white pixels between two images that belong together
_SPACING = 24  # white pixels between the others, in a grid


def class_color(number: int) -> tuple[float, float, float]:
    """Return the RGB color of a class in 0..1; hues in steps of the golden ratio keep the colors of few classes distinct."""
    return colorsys.hsv_to_rgb((0.08 + number * 0.618034) % 1, 0.75, 1.0)


def legible_scale(height: int, width: int) -> float:
    """Return the scale factor, 1 or more, at which labels are legible in an image of this size in pixels."""
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
    """Draw boxes, labels and masks into an image.

    Args:
        image: (H, W, 3) ``uint8`` array in RGB.
        boxes: (N, 4) boxes, XYXY in pixels.
        classes: class index of each object.
        names: class names.
        labels: text after the class name of each object, such as its score.
        masks: mask of each object: an (H, W) array, COCO polygons or an RLE.
        scale: scale factor of the output; None: :func:`legible_scale`.

    Returns:
        (scale · H, scale · W, 3) ``uint8`` array in RGB.
    """
    scale = legible_scale(*image.shape[:2]) if scale is None else scale
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    colors = [class_color(c) for c in classes]
    visualizer = Visualizer(image, scale=scale)
    visualizer.overlay_instances(boxes=boxes, masks=masks if masks else None, assigned_colors=colors)
    labels = [""] * len(classes) if labels is None else labels
    placed: list[Bbox] = []
    for box, class_, label, color in zip(boxes, classes, labels, colors, strict=True):
        placed.append(_write(visualizer, box, f"{names[class_]} {label}".strip(), color, placed))
    return visualizer.output.get_image()


def _write(
    visualizer: Visualizer, box: np.ndarray, text: str, color: tuple[float, float, float], placed: Sequence[Bbox]
) -> Bbox:
    """Draw a label at a corner of a box, or a few lines further where the others have no room; return its extent in pixels."""
    output = visualizer.output
    points = max(_MIN_FONT_SIZE / output.scale, (output.height * output.width) ** 0.5 / 90)
    text = text.replace("$", r"\$")  # matplotlib would parse it as the start of a formula
    light = tuple(0.4 + 0.6 * part for part in color)  # legible on the black background of the label
    visualizer.draw_text(text, (0, 0), font_size=points, color=light, horizontal_alignment="left")
    label = output.ax.texts[-1]
    drawn = label.get_window_extent(output.canvas.get_renderer()).transformed(output.ax.transData.inverted())
    width, height = abs(drawn.width) + _LABEL_MARGIN, abs(drawn.height) + _LABEL_MARGIN
    x0, y0, _, y1 = box
    is_small = (y1 - y0) < 4 * points
    corners = (y1, y0) if is_small else (y0, y1)  # a label inside a small object would cover it
    x = max(0.0, min(x0, output.width - width))
    rows = [max(0.0, min(y, output.height - height)) for y in (*corners, *(y0 + line * height for line in range(1, 9)))]
    candidates = [Bbox.from_bounds(x, y, width, height) for y in rows]
    extent = next((one for one in candidates if not one.count_overlaps(placed)), candidates[0])
    label.set_position((extent.x0, extent.y0))
    return extent


def draw_instances(
    image: np.ndarray, instances: Instances, names: Sequence[str], min_score: float = 0.0, scale: float | None = None
) -> np.ndarray:
    """Draw detections into their image.

    Args:
        image: (H, W, 3) ``uint8`` array in RGB.
        instances: with ``pred_boxes``, ``pred_classes``, ``scores`` and, optionally, ``pred_masks``.
        names: class names.
        min_score: detections with a lower score are not drawn.
        scale: scale factor of the output; None: :func:`legible_scale`, and large images are shrunk to 4096 pixels.
    """
    kept = select(instances, (instances.scores >= min_score).nonzero()[:, 0]).to("cpu")
    shrink = min(1.0, _LARGEST_SIDE / max(image.shape[:2])) if scale is None else 1.0
    return draw_objects(
        image if shrink == 1 else cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA),
        kept.pred_boxes.tensor.numpy() * shrink,
        kept.pred_classes.tolist(),
        names,
        labels=_labels_of(kept),
        masks=_drawable(kept.pred_masks, shrink) if kept.has("pred_masks") else None,
        scale=scale,
    )


def _labels_of(instances: Instances) -> list[str]:
    """The score of each detection, after the number of its track if it has one."""
    scores = [f"{score:.0%}" for score in instances.scores.tolist()]
    tracks = instances.track_ids.tolist() if instances.has("track_ids") else [-1] * len(scores)
    return [score if track < 0 else f"#{track} {score}" for score, track in zip(scores, tracks, strict=True)]


def _drawable(masks: Tensor | WindowMasks, scale: float) -> list[Any]:
    """Masks as bitmaps; as polygons if they are stored in windows or scaled, because large bitmaps fill the memory."""
    if isinstance(masks, Tensor) and scale == 1:
        return list(masks.numpy())
    if isinstance(masks, Tensor):
        height, width = masks.shape[1:]
        masks = WindowMasks.from_bitmaps(masks, (0, 0, width, height), (height, width))
    return [[outline * scale for outline in outlines(*part)] for part in masks.parts()]


def outlines(mask: np.ndarray, corner: tuple[int, int]) -> list[np.ndarray]:
    """Return the outlines of a mask, those of its holes too: flat arrays x, y, x, y, ... in pixels of the image.

    Args:
        mask: (h, w) boolean array.
        corner: (x, y) of the mask in the image.
    """
    # As in detectron2's GenericMask, which draws a pixel at its center.
    contours, _ = cv2.findContours(np.ascontiguousarray(mask, dtype=np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [(contour.reshape(-1, 2) + corner + 0.5).reshape(-1) for contour in contours if len(contour) >= 3]


def draw_annotations(
    image: np.ndarray,
    annotations: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    class_of: Mapping[int, int] | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Draw COCO annotations, or predictions in COCO's result format, into their image.

    Args:
        image: (H, W, 3) ``uint8`` array in RGB.
        annotations: with ``bbox`` (XYWH in pixels, unless ``bbox_mode`` is set), ``category_id`` and, optionally,
            ``segmentation``, ``score`` and ``iscrowd``.
        names: class names.
        class_of: mapping from category ids to class indices; None: they are equal.
        scale: scale factor of the output; None: :func:`legible_scale`.
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
    """Join two images of the same height horizontally, with a white gap."""
    gap = np.full((left.shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Arrange (H, W, 3) images of any sizes in rows on a white background: a square grid, if all have the same size."""
    widest = math.ceil(math.sqrt(len(images))) * (max(image.shape[1] for image in images) + _SPACING)
    rows: list[list[np.ndarray]] = [[]]
    for image in images:
        if _width([*rows[-1], image]) > widest:
            rows.append([])
        rows[-1].append(image)
    heights = [max(image.shape[0] for image in row) + _SPACING for row in rows]
    page = np.full((sum(heights) - _SPACING, max(map(_width, rows)) - _SPACING, 3), 255, dtype=np.uint8)
    for row, top in zip(rows, np.cumsum([0, *heights[:-1]]), strict=True):
        for number, image in enumerate(row):
            left = _width(row[:number])
            page[top : top + image.shape[0], left : left + image.shape[1]] = image
    return page


def _width(row: Sequence[np.ndarray]) -> int:
    """Width of images beside each other, in pixels, with the spacing after each."""
    return sum(image.shape[1] + _SPACING for image in row)


def write_png(image: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) ``uint8`` RGB image to a PNG file."""
    write_atomically(path, partial(Image.fromarray(image).save, format="PNG"))


def _label(annotation: Mapping[str, Any]) -> str:
    if "score" in annotation:
        return f"{annotation['score']:.0%}"
    return "(crowd)" if annotation.get("iscrowd") else ""
