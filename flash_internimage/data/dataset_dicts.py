"""Dataset dicts of registered datasets, validated, and filtered as in the published recipes."""

import logging
from collections.abc import Sequence

from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from detectron2.utils import comm

from flash_internimage.coco_format import is_registered_in_code, load_dataset_dicts
from flash_internimage.errors import UserError

from .boxes import boxes_of, is_degenerate
from .check import check_registered_once, require_valid
from .validation import MIN_SIDE

logger = logging.getLogger(__name__)


def filter_training_dataset_dicts(
    dataset_dicts: Sequence[dict], filter_empty: bool = True, min_side: int = MIN_SIDE, with_masks: bool = False
) -> list[dict]:
    """Drop crowd regions, degenerate boxes, tiny images and, optionally, images without objects.

    Args:
        dataset_dicts: dataset dicts in detectron2's format; not modified.
        filter_empty: whether to drop images without objects.
        min_side: images with a side below this many pixels are dropped.
        with_masks: whether every object must have a segmentation.

    Returns:
        New dataset dicts. The numbers of dropped boxes and images are logged.

    Raises:
        UserError: ``with_masks``, but an object has no segmentation.
    """
    kept = []
    degenerate = empty = tiny = crowds = 0
    with_crowds: list[dict] = []
    for dataset_dict in dataset_dicts:
        height, width = dataset_dict["height"], dataset_dict["width"]
        if min(height, width) < min_side:
            tiny += 1
            continue
        objects = [a for a in dataset_dict["annotations"] if not a.get("iscrowd", 0)]
        if len(objects) < len(dataset_dict["annotations"]):
            crowds += len(dataset_dict["annotations"]) - len(objects)
            with_crowds.append(dataset_dict)
        boxes = boxes_of(objects, BoxMode.XYWH_ABS).tolist()
        valid = [a for a, box in zip(objects, boxes, strict=True) if not is_degenerate(box, height, width)]
        degenerate += len(objects) - len(valid)
        if with_masks and not all("segmentation" in a for a in valid):
            raise UserError(
                f"{dataset_dict.get('annotation_file', 'the dataset')}: an object of image {dataset_dict['image_id']} "
                f"({dataset_dict['file_name']}) has no segmentation, but the model learns masks; "
                "add masks, or train a model that predicts boxes only (DINO)"
            )
        if filter_empty and not valid:
            empty += 1
            continue
        kept.append({**dataset_dict, "annotations": valid})
    if crowds:
        logger.warning(
            "%d crowd regions are left out of training; the first is in image %s (%s)",
            crowds,
            with_crowds[0]["image_id"],
            with_crowds[0]["file_name"],
        )
    for count, what in (
        (degenerate, "boxes with a side below one pixel or outside their image"),
        (tiny, f"images with a side below {min_side} pixels"),
        (empty, "images without objects"),
    ):
        if count:
            logger.warning("Dropped %d %s", count, what)
    return kept


def _load(names: str | Sequence[str]) -> list[dict]:
    """Load the dataset dicts of registered datasets and add the path of the annotation file to each."""
    names = [names] if isinstance(names, str) else list(names)
    dataset_dicts = []
    for name in names:
        # One process is enough: when it fails, the others are terminated.
        if comm.is_main_process():
            require_valid(name)
        if is_registered_in_code(name):
            dataset_dicts += [{"annotations": [], **d, "annotation_file": f"dataset {name}"} for d in load_dataset_dicts(name)]
            continue
        annotation_file = MetadataCatalog.get(name).json_file
        for dataset_dict in get_detection_dataset_dicts(name, filter_empty=False):
            dataset_dicts.append({**dataset_dict, "annotation_file": annotation_file})
    return dataset_dicts


def training_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = True, min_side: int = MIN_SIDE, with_masks: bool = False
) -> list[dict]:
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


def evaluation_dataset_dicts(names: str | Sequence[str]) -> list[dict]:
    """Load the dataset dicts for evaluation: all images, including tiny ones and those without objects."""
    return _load(names)
