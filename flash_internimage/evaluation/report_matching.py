"""Matching of detections to ground truth boxes, and classification of the errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from flash_internimage.errors import UserError

MATCH_IOU = 0.5  # minimum IoU of a match
NEAR_IOU = 0.1  # minimum IoU of a poorly localized detection; below it is background


class Kind(IntEnum):
    """Outcome of a detection: correct, or the kind of error."""

    CORRECT = 0
    WRONG_CLASS = 1  # on an object of another class that has no correct detection
    DUPLICATE = 2  # on an object of its class that a better detection is matched to
    POOR_LOCALIZATION = 3  # IoU between NEAR_IOU and MATCH_IOU with an object of its class
    BACKGROUND = 4  # on no object of its class
    IGNORED = 5  # in a crowd region of its class: neither correct nor an error


@dataclass(frozen=True)
class Boxes:
    """Objects or detections of a dataset, as arrays.

    Attributes:
        image: (N,) image number.
        category: (N,) class index.
        box: (N, 4) box, XYWH in pixels.
        score: (N,) score of a detection; 1 for objects.
        crowd: (N,) whether it is a crowd region.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray
    crowd: np.ndarray

    @classmethod
    def from_coco(
        cls, entries: Sequence[Mapping[str, Any]], image_number: Mapping[int, int], class_number: Mapping[int, int]
    ) -> Boxes:
        """Convert annotations or predictions in COCO format.

        Args:
            entries: annotations, or predictions in COCO's result format.
            image_number: image id -> image number.
            class_number: category id -> class index.

        Raises:
            UserError: an entry has an image id or a category id without a number.
        """
        try:
            image = np.array([image_number[e["image_id"]] for e in entries], dtype=np.int64)
            category = np.array([class_number[e["category_id"]] for e in entries], dtype=np.int64)
        except KeyError as error:
            raise UserError(
                f"a prediction or annotation names image or category {error}, which the annotations do not list; "
                "use predictions and annotations of the same dataset"
            ) from error
        return cls(
            image,
            category,
            np.array([e["bbox"] for e in entries], dtype=np.float64).reshape(-1, 4),
            np.array([e.get("score", 1.0) for e in entries], dtype=np.float64),
            np.array([bool(e.get("iscrowd", 0)) for e in entries], dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Matches:
    """Result of matching D detections to T objects at a score threshold.

    Attributes:
        kind: (D,) :class:`Kind` of each detection. Below the threshold it only distinguishes correct detections from others.
        object: (D,) index of the object that a correct or wrong-class detection is matched to; otherwise -1.
        above_threshold: (D,) whether the score of the detection is at or above the threshold.
        detected: (T,) whether a detection of its class above the threshold is matched to the object.
        confused_with: (T,) class of the wrong-class detection above the threshold that is matched to the object; otherwise -1.
        best_iou: (T,) maximum IoU of the object with the detections of its class above the threshold.
    """

    kind: np.ndarray
    object: np.ndarray
    above_threshold: np.ndarray
    detected: np.ndarray
    confused_with: np.ndarray
    best_iou: np.ndarray


def match(detections: Boxes, objects: Boxes, num_images: int, min_score: float) -> Matches:
    """Match detections to objects of their class as COCO does at IoU 0.5, then the remaining ones across classes.

    Matching is greedy: in order of descending score, each detection is matched to the unmatched object of its class with the
    highest IoU. Remaining detections above the threshold are matched to remaining objects of other classes in the same way.

    Args:
        detections: detections of all images.
        objects: ground truth of all images.
        num_images: number of images.
        min_score: score threshold; detections below it are matched only for the curves over all scores.
    """
    kind = np.full(len(detections), Kind.BACKGROUND, dtype=np.int64)
    partner = np.full(len(detections), -1, dtype=np.int64)
    above_threshold = detections.score >= min_score
    detected = np.zeros(len(objects), dtype=bool)
    confused_with = np.full(len(objects), -1, dtype=np.int64)
    best_iou = np.zeros(len(objects))
    images = zip(_by_image(detections, num_images), _by_image(objects, num_images), strict=True)
    for d, t in images:
        if not len(d) or not len(t):
            continue
        d = d[np.argsort(-detections.score[d], kind="stable")]
        crowd = objects.crowd[t]
        iou = mask_util.iou(detections.box[d], objects.box[t], crowd.astype(np.uint8).tolist())
        same = detections.category[d][:, None] == objects.category[t]
        kind[d] = _kind_of_unmatched(iou, same, crowd)
        pairs = _greedy(np.where(same & ~crowd, iou, 0))
        for i, j in pairs:
            kind[d[i]], partner[d[i]] = Kind.CORRECT, t[j]
            detected[t[j]] = above_threshold[d[i]]
        best_iou[t] = np.where(same & above_threshold[d][:, None], iou, 0).max(axis=0)
        free = (kind[d] != Kind.CORRECT) & (kind[d] != Kind.IGNORED) & above_threshold[d]
        for i, j in _greedy(np.where(free[:, None] & ~same & ~crowd & ~detected[t], iou, 0)):
            kind[d[i]], partner[d[i]] = Kind.WRONG_CLASS, t[j]
            confused_with[t[j]] = detections.category[d[i]]
    return Matches(kind, partner, above_threshold, detected, confused_with, best_iou)


def confusion(detections: Boxes, objects: Boxes, matches: Matches, num_classes: int) -> np.ndarray:
    """Compute the (K + 1, K + 1) confusion matrix: rows are the classes of objects, columns those of detections.

    The last column contains missed objects, the last row unmatched detections. Crowd regions are excluded.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    single = ~objects.crowd
    missed_or_confused = np.where(matches.confused_with >= 0, matches.confused_with, num_classes)
    predicted = np.where(matches.detected, objects.category, missed_or_confused)
    np.add.at(counts, (objects.category[single], predicted[single]), 1)
    unmatched_kinds = (Kind.DUPLICATE, Kind.POOR_LOCALIZATION, Kind.BACKGROUND)
    unmatched = matches.above_threshold & np.isin(matches.kind, unmatched_kinds)
    np.add.at(counts, (np.full(unmatched.sum(), num_classes), detections.category[unmatched]), 1)
    return counts


def _by_image(boxes: Boxes, num_images: int) -> list[np.ndarray]:
    order = np.argsort(boxes.image, kind="stable")
    return np.split(order, np.searchsorted(boxes.image[order], np.arange(1, num_images)))


def _kind_of_unmatched(iou: np.ndarray, same: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the (D,) kind of each detection in case it is not matched to an object."""
    nearest = np.where(same & ~crowd, iou, 0).max(axis=1)
    kind = np.where(nearest >= NEAR_IOU, Kind.POOR_LOCALIZATION, Kind.BACKGROUND)
    kind[nearest >= MATCH_IOU] = Kind.DUPLICATE
    kind[np.where(same & crowd, iou, 0).max(axis=1) >= MATCH_IOU] = Kind.IGNORED
    return kind


def _greedy(iou: np.ndarray) -> list[tuple[int, int]]:
    """Match rows to columns greedily: each row, in order, gets the free column with the highest IoU of at least MATCH_IOU."""
    rows, columns = np.nonzero(iou >= MATCH_IOU)
    order = np.lexsort((-iou[rows, columns], rows))
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    pairs = []
    for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if i not in taken_rows and j not in taken_columns:
            taken_rows.add(i)
            taken_columns.add(j)
            pairs.append((i, j))
    return pairs
