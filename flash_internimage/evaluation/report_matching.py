"""Which detections are right, and what is wrong with the others: boxes matched to ground truth, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from flash_internimage.errors import UserError

MATCH_IOU = 0.5  # boxes that overlap as much are of the same object
NEAR_IOU = 0.1  # boxes that overlap as much, but less than that, are badly placed rather than of nothing


class Kind(IntEnum):
    """What a detection is."""

    CORRECT = 0
    WRONG_CLASS = 1  # on an object of another class that nothing else found
    DUPLICATE = 2  # on an object of its class that a better detection has found already
    BADLY_PLACED = 3  # near an object of its class
    BACKGROUND = 4  # on nothing
    IGNORED = 5  # within a crowd region of its class: neither right nor wrong


@dataclass(frozen=True)
class Boxes:
    """Objects or detections of a dataset, in columns.

    Attributes:
        image: (N,) number of the image of each.
        category: (N,) number of its class.
        box: (N, 4) XYWH in pixels.
        score: (N,), of detections; 1 for objects.
        crowd: (N,) whether it is a crowd region.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray
    crowd: np.ndarray

    @classmethod
    def of(
        cls, entries: Sequence[Mapping[str, Any]], image_number: Mapping[int, int], class_number: Mapping[int, int]
    ) -> Boxes:
        """Columns of annotations or predictions in COCO's format.

        Args:
            image_number: the number of each image id.
            class_number: the number of each category id.

        Raises:
            UserError: an entry is of an image or a category that is not there.
        """
        try:
            image = np.array([image_number[e["image_id"]] for e in entries], dtype=np.int64)
            category = np.array([class_number[e["category_id"]] for e in entries], dtype=np.int64)
        except KeyError as error:
            raise UserError(
                f"a prediction or annotation names image or category {error}, which the annotations do not list; "
                "use predictions and annotations of the same data"
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
    """What became of D detections and T objects, at a lowest score.

    Attributes:
        kind: (D,) a :class:`Kind` for each detection. Below the lowest score only whether it would be correct counts.
        object: (D,) the number of the object that a correct detection, or one of a wrong class, is matched to; else -1.
        counted: (D,) whether the score reaches the lowest.
        found: (T,) whether a counted detection of its class is matched to the object.
        taken_for: (T,) the class of the counted detection of a wrong class that is matched to the object; else -1.
        best_iou: (T,) largest overlap of the object with a counted detection of its class.
    """

    kind: np.ndarray
    object: np.ndarray
    counted: np.ndarray
    found: np.ndarray
    taken_for: np.ndarray
    best_iou: np.ndarray


def match(detections: Boxes, objects: Boxes, num_images: int, min_score: float) -> Matches:
    """Match boxes as COCO does at an IoU of 0.5, then what is left over across classes.

    By falling score each detection takes the object of its class that it overlaps most and that is still free. Of what is
    left, detections that count take objects of other classes in the same way.

    Args:
        min_score: detections below it do not count, except in curves over all scores.
    """
    kind = np.full(len(detections), Kind.BACKGROUND, dtype=np.int64)
    partner = np.full(len(detections), -1, dtype=np.int64)
    counted = detections.score >= min_score
    found = np.zeros(len(objects), dtype=bool)
    taken_for = np.full(len(objects), -1, dtype=np.int64)
    best_iou = np.zeros(len(objects))
    of_image = zip(_by_image(detections, num_images), _by_image(objects, num_images), strict=True)
    for d, t in of_image:
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
            found[t[j]] = counted[d[i]]
        best_iou[t] = np.where(same & counted[d][:, None], iou, 0).max(axis=0)
        free = (kind[d] != Kind.CORRECT) & (kind[d] != Kind.IGNORED) & counted[d]
        for i, j in _greedy(np.where(free[:, None] & ~same & ~crowd & ~found[t], iou, 0)):
            kind[d[i]], partner[d[i]] = Kind.WRONG_CLASS, t[j]
            taken_for[t[j]] = detections.category[d[i]]
    return Matches(kind, partner, counted, found, taken_for, best_iou)


def confusion(detections: Boxes, objects: Boxes, matches: Matches, num_classes: int) -> np.ndarray:
    """(K + 1, K + 1) counts: a row for each object's class, a column for each detection's.

    The last column counts objects that were missed, the last row detections on no object. Crowds do not count.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    single = ~objects.crowd
    said = np.where(matches.found, objects.category, np.where(matches.taken_for >= 0, matches.taken_for, num_classes))
    np.add.at(counts, (objects.category[single], said[single]), 1)
    alone = matches.counted & np.isin(matches.kind, (Kind.DUPLICATE, Kind.BADLY_PLACED, Kind.BACKGROUND))
    np.add.at(counts, (np.full(alone.sum(), num_classes), detections.category[alone]), 1)
    return counts


def _by_image(boxes: Boxes, num_images: int) -> list[np.ndarray]:
    order = np.argsort(boxes.image, kind="stable")
    return np.split(order, np.searchsorted(boxes.image[order], np.arange(1, num_images)))


def _kind_of_unmatched(iou: np.ndarray, same: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """(D,) what each detection is if no object is matched to it."""
    nearest = np.where(same & ~crowd, iou, 0).max(axis=1)
    kind = np.where(nearest >= NEAR_IOU, Kind.BADLY_PLACED, Kind.BACKGROUND)
    kind[nearest >= MATCH_IOU] = Kind.DUPLICATE
    kind[np.where(same & crowd, iou, 0).max(axis=1) >= MATCH_IOU] = Kind.IGNORED
    return kind


def _greedy(iou: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows and columns that overlap enough: row by row the best column that is free, each once."""
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
