"""Box utilities for annotations in detectron2's dataset format."""

from collections.abc import Sequence
from typing import Any

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
    return not _is_visible(box, height, width)


def are_degenerate(boxes: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Vectorized version of ``is_degenerate``.

    Args:
        boxes: (N, 4), XYWH in pixels.
        heights: (N,), height of the image of each box in pixels.
        widths: (N,), width of the image of each box in pixels.
    """
    return ~_is_visible(np.asarray(boxes).T, heights, widths)


def _is_visible(box: Any, height: Any, width: Any) -> Any:
    """The rule, for numbers (a bool) and for arrays (an array): ``&`` works for both.

    Comparisons with NaN are false, so that a box with NaN is not visible.
    """
    x, y, box_width, box_height = box
    is_large = (box_width >= 1) & (box_height >= 1)
    return is_large & (x < width) & (x + box_width > 0) & (y < height) & (y + box_height > 0)


def boxes_of(annotations: list[dict], mode: BoxMode) -> np.ndarray:
    """Return the boxes of annotations as an (N, 4) array in float64; detectron2 itself would convert lists in float32.

    Args:
        annotations: annotations in detectron2's format, with ``bbox`` and ``bbox_mode``.
        mode: format of the result, in absolute pixels.
    """
    boxes = np.zeros((len(annotations), 4))
    modes = [a["bbox_mode"] for a in annotations]
    for given in set(modes):
        index = [i for i, each in enumerate(modes) if each == given]
        boxes[index] = BoxMode.convert(np.array([annotations[i]["bbox"] for i in index], dtype=np.float64), given, mode)
    return boxes
