"""Data of one's own, given on the command line as annotation files and image folders, with no code to write."""

import difflib
import logging
from collections.abc import Iterator

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig, ListConfig, OmegaConf

from flash_internimage.errors import UserError

from .check import DatasetReport, check_dataset_once, require_sound, require_valid

logger = logging.getLogger(__name__)

TRAIN_NAME = "custom_train"
TEST_NAME = "custom_test"
"""Names under which the data of the command line is registered with detectron2."""


def register_in_place(name: str, annotation_file: str, image_root: str) -> None:
    """Registers a dataset in COCO's format, in place of one that was registered under the name before."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, annotation_file, image_root)


def _checked(cfg: DictConfig, split: str) -> DatasetReport | None:
    """Report of the data given for a split, or ``None`` if none is given.

    Raises:
        UserError: one half is missing, or the data has errors.
    """
    given = cfg.data[split]
    if given.json is None and given.images is None:
        return None
    if given.json is None or given.images is None:
        missing, present = ("json", "images") if given.json is None else ("images", "json")
        raise UserError(
            f"data.{split}.{present} is given, but data.{split}.{missing} is not; "
            "both are needed: an annotation file in COCO's format, and the folder of its images"
        )
    report = check_dataset_once(str(given.json), str(given.images))
    require_sound(report)
    for sentence in report.warnings:
        logger.warning(sentence)
    return report


def _require_same_categories(train: DatasetReport, test: DatasetReport) -> None:
    if train.categories == test.categories:
        return
    differing = sorted(dict(train.categories.items() ^ test.categories.items()))
    id_ = differing[0]
    raise UserError(
        "training and test data must have the same categories, but "
        f"category {id_} is {train.categories.get(id_, 'absent')!r} in {train.annotation_file} "
        f"and {test.categories.get(id_, 'absent')!r} in {test.annotation_file}"
        + (f" ({len(differing)} categories differ)" if len(differing) > 1 else "")
    )


def literal_num_classes(model: DictConfig | ListConfig) -> Iterator[DictConfig]:
    """The nodes of a model config that give ``num_classes`` as a number and not as a reference to another."""
    keys = range(len(model)) if isinstance(model, ListConfig) else list(model.keys())
    for key in keys:
        if OmegaConf.is_interpolation(model, key) or OmegaConf.is_missing(model, key):
            continue
        value = model[key]
        if isinstance(value, DictConfig | ListConfig):
            yield from literal_num_classes(value)
        elif key == "num_classes" and value is not None:
            yield model


def use_custom_data(cfg: DictConfig) -> list[str] | None:
    """Points a config at the data in ``cfg.data``, if there is any, and sets the model's number of classes.

    ``cfg.data.train.json``, ``cfg.data.train.images`` and the same of ``cfg.data.test`` name the files. The data is
    checked and registered with detectron2, ``dataloader`` is pointed at it, and every literal ``num_classes`` in
    ``cfg.model`` becomes the number of its categories. Category ids may be any integers: in ascending order they are
    the model's classes.

    Args:
        cfg: a whole config; changed in place.

    Returns:
        Names of the classes in the model's order; ``None`` if no data is given.

    Raises:
        UserError: the data has errors, or the categories of training and test data differ, or there is training data
            without test data.
    """
    train, test = _checked(cfg, "train"), _checked(cfg, "test")
    if train is None and test is None:
        return None
    if test is None:
        raise UserError(
            "data.train is given, but data.test is not; set data.test.json and data.test.images to the data on which "
            "the model is evaluated"
        )
    if train is not None:
        _require_same_categories(train, test)
        register_in_place(TRAIN_NAME, train.annotation_file, train.image_root)
        cfg.dataloader.train.dataset.names = TRAIN_NAME
    register_in_place(TEST_NAME, test.annotation_file, test.image_root)
    cfg.dataloader.test.dataset.names = TEST_NAME
    cfg.dataloader.evaluator.dataset_name = TEST_NAME
    for node in literal_num_classes(cfg.model):
        node.num_classes = len(test.categories)
    return list(test.categories.values())


def require_registered(dataset_name: str) -> None:
    """Checks that detectron2 knows a dataset.

    Raises:
        UserError: it does not; the nearest names are given.
    """
    known = DatasetCatalog.list()
    if dataset_name not in known:
        near = difflib.get_close_matches(dataset_name, known, n=3)
        own = "give data of your own by its annotation file and its folder of images"
        hint = f"did you mean {' or '.join(near)}?" if near else own
        raise UserError(f"dataset {dataset_name!r} is not known; {hint}")


def class_names(dataset_name: str) -> list[str] | None:
    """Names of the classes of a registered dataset in the model's order; ``None`` if it does not name them.

    Raises:
        UserError: the dataset is not known, or has errors.
    """
    require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("thing_classes") is not None:
        return list(metadata.thing_classes)
    if metadata.get("json_file") is None:
        return None
    require_valid(dataset_name)
    return list(check_dataset_once(str(metadata.json_file), str(metadata.image_root)).categories.values())


def require_num_classes(cfg: DictConfig, dataset_name: str) -> None:
    """Checks that the model of a config has as many classes as a dataset.

    Args:
        cfg: a whole config.
        dataset_name: a registered dataset.

    Raises:
        UserError: it has not.
    """
    names = class_names(dataset_name)
    if names is None:
        return
    for node in literal_num_classes(cfg.model):
        if node.num_classes != len(names):
            raise UserError(
                f"the model has {node.num_classes} classes, but dataset {dataset_name} has {len(names)} "
                f"({', '.join(names[:10])}{', ...' if len(names) > 10 else ''}); "
                f"set num_classes to {len(names)}, or give data of your own as data.train and data.test, which sets it"
            )
