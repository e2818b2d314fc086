"""Box utilities for annotations in detectron2's dataset format."""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import BoxMode


def is_degenerate(box: Sequence[float], height: int, width: int) -> bool:
    """Return whether a box has a side below one pixel or lies outside its image.

    The published recipes do not train on such boxes.

    Args:
        box: (x, y, width, height) in pixels, where (x, y) is the top left corner.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    x, y, box_width, box_height = box
    # Comparisons with NaN are false, so that a box with NaN is degenerate.
    within = min(x + box_width, width) > max(x, 0) and min(y + box_height, height) > max(y, 0)
    return not (box_width >= 1 and box_height >= 1 and within)


def are_degenerate(boxes: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Vectorized version of ``is_degenerate``.

    Args:
        boxes: (N, 4), XYWH in pixels.
        heights: (N,), height of the image of each box in pixels.
        widths: (N,), width of the image of each box in pixels.
    """
    x, y, box_widths, box_heights = np.asarray(boxes).T
    is_within = (np.minimum(x + box_widths, widths) > np.maximum(x, 0)) & (
        np.minimum(y + box_heights, heights) > np.maximum(y, 0)
    )
    return ~((box_widths >= 1) & (box_heights >= 1) & is_within)


def boxes_of(annotations: list[dict], mode: BoxMode) -> np.ndarray:
    """Return the boxes of annotations as an (N, 4) array in float64; detectron2 itself would convert lists in float32.

    Args:
        annotations: annotations in detectron2's format, with ``bbox`` and ``bbox_mode``.
        mode: format of the result, in absolute pixels.
    """
    boxes = [BoxMode.convert(np.array([a["bbox"]], dtype=np.float64), a["bbox_mode"], mode) for a in annotations]
    return np.concatenate(boxes) if boxes else np.zeros((0, 4))
