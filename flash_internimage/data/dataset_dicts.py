"""Registered datasets as lists of dataset dicts, checked and filtered as the published recipes filter them."""

import logging
from collections.abc import Sequence

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils import comm

from flash_internimage.errors import UserError

from .boxes import boxes_of, is_degenerate
from .check import require_valid

logger = logging.getLogger(__name__)


def filter_training_dataset_dicts(
    dataset_dicts: Sequence[dict], filter_empty: bool = True, min_side: int = 32, with_masks: bool = False
) -> list[dict]:
    """Drops crowd regions, degenerate boxes, and images that are tiny or, if asked, without objects.

    Args:
        dataset_dicts: in detectron2's format; not changed.
        filter_empty: whether to drop images without objects.
        min_side: images with a shorter side, in pixels, are dropped.
        with_masks: whether objects need a segmentation.

    Returns:
        New dataset dicts. What was dropped is logged, with its count.

    Raises:
        UserError: an object has no segmentation but needs one.
    """
    kept = []
    degenerate = empty = tiny = 0
    for dataset_dict in dataset_dicts:
        height, width = dataset_dict["height"], dataset_dict["width"]
        if min(height, width) < min_side:
            tiny += 1
            continue
        objects = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        boxes = boxes_of(objects, BoxMode.XYWH_ABS).tolist()
        sound = [a for a, box in zip(objects, boxes, strict=True) if not is_degenerate(box, height, width)]
        degenerate += len(objects) - len(sound)
        if with_masks and not all("segmentation" in a for a in sound):
            raise UserError(
                f"{dataset_dict.get('annotation_file', 'the dataset')}: an object of image {dataset_dict['image_id']} "
                f"({dataset_dict['file_name']}) has no segmentation, but the model learns masks; "
                "add masks, or train a model that finds boxes only (DINO)"
            )
        if filter_empty and not sound:
            empty += 1
            continue
        kept.append({**dataset_dict, "annotations": sound})
    for count, what in (
        (degenerate, "boxes with a side below one pixel or outside their image"),
        (tiny, f"images with a side below {min_side} pixels"),
        (empty, "images without objects"),
    ):
        if count:
            logger.warning("Dropped %d %s", count, what)
    return kept


def _load(names: str | Sequence[str]) -> list[dict]:
    """Records of one or several registered datasets, each with the name of the annotation file it stems from."""
    names = [names] if isinstance(names, str) else list(names)
    dataset_dicts = []
    for name in names:
        # Once is enough, and a failing process ends the others.
        if comm.is_main_process():
            require_valid(name)
        annotation_file = MetadataCatalog.get(name).get("json_file", name)
        for dataset_dict in get_detection_dataset_dicts(name, filter_empty=False):
            dataset_dicts.append({**dataset_dict, "annotation_file": annotation_file})
    return dataset_dicts


def training_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, min_side: int = 32, with_masks: bool = False
) -> list[dict]:
    """Records to train on.

    Args:
        names: one or several registered datasets.
        filter_empty: whether to drop images without objects.
        min_side: images with a shorter side, in pixels, are dropped.
        with_masks: whether objects need a segmentation.

    Raises:
        UserError: a dataset is damaged (see ``check.require_valid``), or nothing is left.
    """
    dataset_dicts = filter_training_dataset_dicts(_load(names), filter_empty, min_side, with_masks)
    if not dataset_dicts:
        raise UserError(f"{names}: no image is left to train on; the messages above say what was dropped")
    return dataset_dicts


def evaluation_dataset_dicts(names: str | Sequence[str]) -> list[dict]:
    """Records to evaluate on: all images, tiny and empty ones too."""
    return _load(names)
