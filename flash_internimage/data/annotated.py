"""Test images with their annotations, to compute the losses of a model on them."""

from __future__ import annotations

from collections.abc import Sequence

from flash_internimage.errors import UserError

from .dataset_dicts import evaluation_dataset_dicts, filter_training_dataset_dicts


def annotated_dataset_dicts(names: str | Sequence[str], with_masks: bool = False) -> list[dict]:
    """Load the dataset dicts of all test images, with the objects that a model would be trained on.

    Args:
        names: one or several registered datasets.
        with_masks: whether every object must have a segmentation.

    Returns:
        New dataset dicts, with ``position``, their index, which seeds the random numbers of the losses.

    Raises:
        UserError: a dataset has no annotations, or an object has no segmentation but needs one.
    """
    dicts = evaluation_dataset_dicts(names)
    if not any(dataset_dict["annotations"] for dataset_dict in dicts):
        raise UserError(
            f"train.val_loss=true: the validation data ({names if isinstance(names, str) else ', '.join(names)}) has no "
            "annotations, which losses are computed from; set train.val_loss=false, or give annotated data"
        )
    kept = filter_training_dataset_dicts(dicts, filter_empty=False, min_side=1, with_masks=with_masks)
    return [{**dataset_dict, "position": position} for position, dataset_dict in enumerate(kept)]
