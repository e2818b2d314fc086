"""Boxes as annotation files give them."""

import numpy as np
from detectron2.structures import BoxMode


def is_degenerate(x: float, y: float, box_width: float, box_height: float, height: int, width: int) -> bool:
    """Whether a box has a side below one pixel, or lies outside its image: the published recipes do not train on it.

    Args:
        x: left side of the box, in pixels.
        y: upper side of the box, in pixels.
        box_width: width of the box in pixels.
        box_height: height of the box in pixels.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    # Written so that NaN, for which no comparison holds, counts as degenerate.
    within = min(x + box_width, width) > max(x, 0) and min(y + box_height, height) > max(y, 0)
    return not (box_width >= 1 and box_height >= 1 and within)


def boxes_of(annotations: list[dict], mode: BoxMode) -> np.ndarray:
    """(N, 4) boxes of annotations in detectron2's format, in float64 (detectron2 itself would convert lists in float32).

    Args:
        annotations: with ``bbox`` and ``bbox_mode``.
        mode: format of the result, in absolute pixels.
    """
    boxes = [BoxMode.convert(np.array([a["bbox"]], dtype=np.float64), a["bbox_mode"], mode) for a in annotations]
    return np.concatenate(boxes) if boxes else np.zeros((0, 4))
