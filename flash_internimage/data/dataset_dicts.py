"""Dataset dicts of registered datasets, validated, and filtered as in the published recipes."""

from __future__ import annotations

import logging
import os
import pickle
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import overload

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n
from tabulate import tabulate

from flash_internimage.coco_format import is_registered_in_code, load_dataset_dicts
from flash_internimage.errors import UserError
from flash_internimage.plurals import agree, counted

from .annotations import read_annotations
from .boxes import are_degenerate
from .check import DatasetReport, require_sound
from .registered import check_registered_once, loads_coco_json, make_if_missing, require_valid, set_categories
from .serialized import SerializedDicts
from .validation import MIN_SIDE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some images of a dataset.

    Attributes:
        serialized: all images of the dataset.
        images: (M,), numbers of the images.
        is_kept: (A,), whether each object of the dataset is kept; None: all.
        image_root: folder to which file names are relative; None if they are complete in the dataset dicts.
        source: value of ``annotation_file`` of the dataset dicts; None if it is part of them.
    """

    serialized: SerializedDicts
    images: np.ndarray
    is_kept: np.ndarray | None = None
    image_root: str | None = None
    source: str | None = None

    @property
    def sizes(self) -> np.ndarray:
        return self.serialized.sizes[self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        image = int(self.images[index])
        dataset_dict = self.serialized[image]
        if self.image_root is not None:
            for annotation in dataset_dict["annotations"]:
                annotation["bbox_mode"] = BoxMode.XYWH_ABS
            dataset_dict["file_name"] = os.path.join(self.image_root, dataset_dict["file_name"])
            dataset_dict["annotation_file"] = self.source
        if self.is_kept is not None:
            is_kept = self.is_kept[self.serialized.objects[image] : self.serialized.objects[image + 1]]
            pairs = zip(dataset_dict["annotations"], is_kept.tolist(), strict=True)
            dataset_dict["annotations"] = [annotation for annotation, kept in pairs if kept]
        return dataset_dict


class DatasetDicts(Sequence[dict]):
    """Dataset dicts in detectron2's format, each deserialized on access, so that all of them take little memory.

    Processes that are forked or spawned share what was read from an annotation file. A dict may be modified: it is a copy.

    Attributes:
        sizes: (N, 2), height and width of each image in pixels.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self.parts = list(parts)
        self.sizes = np.concatenate([part.sizes for part in parts]) if parts else np.zeros((0, 2), np.int64)
        self._starts = [0, *accumulate(len(part) for part in parts)]

    @classmethod
    def of(cls, dataset_dicts: Sequence[dict]) -> DatasetDicts:
        """Serialize a list of dataset dicts, whose annotations have boxes."""
        serialized = SerializedDicts.of(dataset_dicts, pickle.loads)
        return cls([_Part(serialized, np.arange(len(serialized)))])

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> dict: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict]: ...

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # raises an IndexError, which ends iterations
        part = bisect_right(self._starts, position) - 1
        return self.parts[part][position - self._starts[part]]


@dataclass
class _Dropped:
    """Counts what a filter drops; ``first`` is the first image with crowd regions."""

    crowds: int = 0
    boxes: int = 0
    tiny: int = 0
    empty: int = 0
    first: dict | None = None


def filter_training_dataset_dicts(
    dataset_dicts: DatasetDicts, filter_empty: bool = True, min_side: int = MIN_SIDE, with_masks: bool = False
) -> DatasetDicts:
    """Drop crowd regions, degenerate boxes, tiny images and, optionally, images without objects.

    Args:
        dataset_dicts: not modified.
        filter_empty: whether to drop images without objects.
        min_side: images with a side below this many pixels are dropped.
        with_masks: whether every object must have a segmentation.

    Returns:
        The remaining images and objects. The numbers of dropped boxes and images are logged.

    Raises:
        UserError: ``with_masks``, but an object has no segmentation.
    """
    dropped = _Dropped()
    kept = DatasetDicts([_filter(part, filter_empty, min_side, with_masks, dropped) for part in dataset_dicts.parts])
    if dropped.first is not None:
        logger.warning(
            "%s left out of training; the first is in image %s (%s)",
            counted(dropped.crowds, "crowd region is", "crowd regions are"),
            dropped.first["image_id"],
            dropped.first["file_name"],
        )
    for count, what in (
        (
            dropped.boxes,
            "[box that is|boxes that are] less than one pixel wide or high, or [lies|lie] outside [its|their] image",
        ),
        (dropped.tiny, f"[image|images] with a side below {min_side} pixels"),
        (dropped.empty, "[image|images] without objects"),
    ):
        if count:
            logger.warning("Dropped %s %s", f"{count:,}", agree(what, count))
    return kept


def _filter(part: _Part, filter_empty: bool, min_side: int, with_masks: bool, dropped: _Dropped) -> _Part:
    serialized = part.serialized
    is_large = part.sizes.min(axis=1, initial=min_side) >= min_side
    images = part.images[is_large]
    dropped.tiny += len(part) - len(images)

    image_of = np.repeat(np.arange(len(serialized)), np.diff(serialized.objects))  # of each object
    is_listed = np.zeros(len(serialized), dtype=bool)
    is_listed[images] = True
    is_given = is_listed[image_of] if part.is_kept is None else is_listed[image_of] & part.is_kept
    is_crowd = is_given & serialized.is_crowd
    heights, widths = serialized.sizes[image_of].T
    is_kept = is_given & ~serialized.is_crowd & ~are_degenerate(serialized.boxes, heights, widths)
    dropped.crowds += int(is_crowd.sum())
    dropped.boxes += int((is_given & ~is_crowd & ~is_kept).sum())

    def first_of(is_chosen: np.ndarray) -> dict:
        position = int(np.flatnonzero(np.isin(images, image_of[is_chosen]))[0])
        return replace(part, images=images)[position]

    if with_masks and (is_kept & ~serialized.has_mask).any():
        dataset_dict = first_of(is_kept & ~serialized.has_mask)
        raise UserError(
            f"{dataset_dict.get('annotation_file', 'the dataset')}: an object of image {dataset_dict['image_id']} "
            f"({dataset_dict['file_name']}) has no segmentation, but the model learns masks; "
            "add masks, or train a model that predicts boxes only (DINO)"
        )
    if is_crowd.any() and dropped.first is None:
        dropped.first = first_of(is_crowd)
    if filter_empty:
        has_objects = np.bincount(image_of[is_kept], minlength=len(serialized))[images] > 0
        dropped.empty += int((~has_objects).sum())
        images = images[has_objects]
    return replace(part, images=images, is_kept=is_kept)


def _load(names: str | Sequence[str]) -> DatasetDicts:
    """Load the dataset dicts of registered datasets; ``annotation_file`` of each is the path of the file, or the dataset."""
    return DatasetDicts([part for name in ([names] if isinstance(names, str) else names) for part in _parts(name)])


def _parts(name: str) -> list[_Part]:
    # One process is enough: when it fails, the others are terminated.
    if comm.is_main_process():
        require_valid(name)
    if is_registered_in_code(name):
        source = f"dataset {name}"
        return DatasetDicts.of([{"annotations": [], **d, "annotation_file": source} for d in load_dataset_dicts(name)]).parts
    metadata = MetadataCatalog.get(name)
    source = metadata.json_file
    if not loads_coco_json(DatasetCatalog[name]):
        loaded = get_detection_dataset_dicts(name, filter_empty=False)
        return DatasetDicts.of([{**dataset_dict, "annotation_file": source} for dataset_dict in loaded]).parts
    make_if_missing(name)
    annotations = read_annotations(str(source))
    require_sound(annotations.report)
    serialized = annotations.serialized
    assert serialized is not None  # the report has no errors
    set_categories(name, annotations.report.categories)
    _log_histogram(annotations.report)
    return [_Part(serialized, np.arange(len(serialized)), image_root=str(metadata.get("image_root", "")), source=str(source))]


def _log_histogram(report: DatasetReport) -> None:
    """Log the number of objects of each class, as detectron2's ``print_instances_class_histogram``, which needs all objects."""
    names = [name if len(name) <= 13 else f"{name[:11]}.." for name in report.categories.names]
    counts = list(report.objects.values())
    cells = [*zip(names, counts, strict=True), ("total", sum(counts))]
    columns = min(3, len(names))
    rows = [[value for cell in cells[i : i + columns] for value in cell] for i in range(0, len(cells), columns)]
    table = tabulate(rows, headers=["category", "#instances"] * columns, tablefmt="pipe", numalign="left", stralign="center")
    log_first_n(logging.INFO, f"Distribution of instances among all {len(names)} categories:\n{table}", key="message")


def training_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, min_side: int = MIN_SIDE, with_masks: bool = False
) -> DatasetDicts:
    """Load and filter the dataset dicts for training.

    Args:
        names: one or several registered datasets.
        filter_empty: whether to drop images without objects.
        min_side: images with a side below this many pixels are dropped.
        with_masks: whether every object must have a segmentation.

    Raises:
        UserError: a dataset is invalid (see ``check.require_valid``), or no image is left.
    """
    dataset_dicts = filter_training_dataset_dicts(_load(names), filter_empty, min_side, with_masks)
    if not dataset_dicts:
        reports = map(check_registered_once, [names] if isinstance(names, str) else names)
        reasons = [report.untrainable for report in reports if report.untrainable is not None]
        reason = "; ".join(reasons) or "see the log messages above for what was dropped"
        raise UserError(f"{names}: no image is left to train on; {reason}")
    return dataset_dicts


def evaluation_dataset_dicts(names: str | Sequence[str]) -> DatasetDicts:
    """Load the dataset dicts for evaluation: all images, including tiny ones and those without objects."""
    return _load(names)
