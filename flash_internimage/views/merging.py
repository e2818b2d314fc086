"""Merging of the detections of several views of an image: non-maximum suppression within classes, on boxes or on masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.structures import WindowMasks

Similarity = Callable[[int, np.ndarray], np.ndarray]
"""Function of a detection and of others, with which it shares pixels of its box -> how much it repeats each of them, 0 to 1."""


def merge(views: Sequence[Instances], threshold: float, limit: int | None = None) -> Instances:
    """Merge the detections of several views.

    A detection is suppressed by a better one of the same class if the IoU of both exceeds a threshold: the IoU of their masks,
    or of their boxes without masks. Detections that the edge of a tile has cut come last, and are suppressed if this fraction
    of their own area is in a better one, because the IoU of a part with its whole is small.

    Args:
        views: detections in the same image, at least one, with ``pred_boxes``, ``scores``, ``pred_classes``, ``is_cut`` and,
            optionally, ``pred_masks`` (:class:`.WindowMasks`); on the CPU.
        threshold: IoU above which a detection is suppressed.
        limit: largest number of detections to keep; None: all.

    Returns:
        The remaining detections by descending score, without ``is_cut``.
    """
    merged = concatenated(views)
    boxes = merged.pred_boxes.tensor.double().numpy()
    is_cut = merged.is_cut.numpy()
    with_masks = merged.has("pred_masks")
    similarity = mask_similarity(merged.pred_masks, is_cut) if with_masks else box_similarity(boxes, is_cut)
    scores = merged.scores.double().numpy()
    kept = suppress(boxes, scores, merged.pred_classes.numpy(), is_cut, similarity, threshold)
    best = kept[np.argsort(-scores[kept], kind="stable")][:limit]
    merged.remove("is_cut")
    result = merged[torch.from_numpy(best)]
    if with_masks:
        result.pred_masks = result.pred_masks.compact()
    return result


def concatenated(views: Sequence[Instances]) -> Instances:
    """All detections of the views, in order; fields are those of the first view."""
    result = Instances(views[0].image_size)
    for name, value in views[0].get_fields().items():
        values = [view.get(name) for view in views]
        kind = type(value)
        result.set(name, kind.cat(values) if issubclass(kind, Boxes | WindowMasks) else torch.cat(values))
    return result


def suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, is_cut: np.ndarray, similarity: Similarity, threshold: float
) -> np.ndarray:
    """Suppress each detection that repeats a better one of its class; see :func:`merge`.

    Args:
        boxes: (N, 4) XYXY.
        scores, classes, is_cut: (N,); among equal scores the earlier detection is better.
        similarity: called with detections whose boxes intersect.

    Returns:
        (M,) indices of the remaining detections, best first within a class.
    """
    order = np.lexsort((np.arange(len(scores)), -scores, is_cut))
    kept = [_suppress_in_class(boxes, order[classes[order] == label], similarity, threshold) for label in np.unique(classes)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *kept])


def _suppress_in_class(boxes: np.ndarray, order: np.ndarray, similarity: Similarity, threshold: float) -> np.ndarray:
    kept = np.zeros(len(order), dtype=np.int64)
    count = 0
    for i in order.tolist():
        better = kept[:count]
        others = boxes[better]
        x0, y0, x1, y1 = boxes[i]
        touching = (others[:, 0] < x1) & (x0 < others[:, 2]) & (others[:, 1] < y1) & (y0 < others[:, 3])
        rivals = better[touching]
        if not len(rivals) or similarity(i, rivals).max() <= threshold:
            kept[count] = i
            count += 1
    return kept[:count]


def box_similarity(boxes: np.ndarray, is_cut: np.ndarray) -> Similarity:
    """IoU of boxes; for a detection that is cut, the fraction of its box in the other one.

    Args:
        boxes: (N, 4) XYXY.
        is_cut: (N,) bool.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    def similarity(i: int, rivals: np.ndarray) -> np.ndarray:
        sides = np.minimum(boxes[i, 2:], boxes[rivals, 2:]) - np.maximum(boxes[i, :2], boxes[rivals, :2])
        common = sides.clip(min=0).prod(axis=1)
        return np.asarray(common / (area[i] if is_cut[i] else area[i] + area[rivals] - common))

    return similarity


def mask_similarity(masks: WindowMasks, is_cut: np.ndarray) -> Similarity:
    """IoU of masks; for a detection that is cut, the fraction of its mask in the other one."""
    encoded = masks.run_lengths()

    def similarity(i: int, rivals: np.ndarray) -> np.ndarray:
        # pycocotools divides by the area of the first mask alone where the second one is a crowd region.
        return np.asarray(mask_util.iou([encoded[i]], [encoded[k] for k in rivals], [bool(is_cut[i])] * len(rivals))[0])

    return similarity
