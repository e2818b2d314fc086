"""Custom datasets: files and folders given on the command line, without code to register them."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig, ListConfig, OmegaConf

from flash_internimage.errors import UserError
from flash_internimage.plurals import counted

from .annotations import check_dataset_once
from .categories import Categories
from .check import DatasetReport, require_sound
from .given import Dataset, given_datasets
from .registered import require_valid, set_categories

logger = logging.getLogger(__name__)

TRAIN_NAME = "custom_train"
TEST_NAME = "custom_test"
"""Names under which the datasets of the command line are registered with detectron2."""


def register_in_place(name: str, annotation_file: str, image_root: str) -> None:
    """Register a dataset in COCO format, replacing one that was registered under the name before."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, annotation_file, image_root)


def use_custom_data(cfg: DictConfig, parts: Collection[str] = ("train", "test")) -> Categories | None:
    """Apply ``cfg.data`` to a config, if it is set: point the loaders at the datasets and set the number of classes.

    ``cfg.data`` names annotation files in COCO format with image folders, or datasets in other formats, which are converted.
    The datasets are validated and registered with detectron2, ``dataloader`` is pointed at them, and every literal
    ``num_classes`` in ``cfg.model`` becomes the number of their categories. Category ids may be any integers: the classes of
    the model are the categories in ascending order of ids.

    Args:
        cfg: a whole config; changed in place.
        parts: the datasets that are needed, ``train`` and ``test``; others are not converted.

    Returns:
        The categories; None if ``cfg.data`` is not set.

    Raises:
        UserError: a dataset cannot be read or has errors, the categories of training and test data differ, or there is
            training data without test data.
    """
    given = given_datasets(cfg, parts)
    train, test = _checked(given["train"]), _checked(given["test"])
    reports = [report for report in (test, train) if report is not None]
    if not reports:
        return None
    if test is None and "test" in parts:
        raise UserError(
            "data.train is given, but data.test is not; set data.test.json and data.test.images (or data.test.yolo, "
            "data.test.voc) to the data on which the model is evaluated, or data.val_fraction=0.1 to hold out a tenth"
        )
    if train is not None:
        if test is not None:
            _require_same_categories(train, test)
        register_in_place(TRAIN_NAME, train.annotation_file, train.image_root)
        set_categories(TRAIN_NAME, train.categories)
        cfg.dataloader.train.dataset.names = TRAIN_NAME
    if test is not None:
        register_in_place(TEST_NAME, test.annotation_file, test.image_root)
        set_categories(TEST_NAME, test.categories)
        cfg.dataloader.test.dataset.names = TEST_NAME
        cfg.dataloader.evaluator.dataset_name = TEST_NAME
    categories = reports[0].categories
    for node in literal_num_classes(cfg.model):
        node.num_classes = len(categories)
    return categories


def require_registered(dataset_name: str) -> None:
    """Raise an error if a dataset is not registered with detectron2.

    Raises:
        UserError: the dataset is not registered; the message has the nearest names.
    """
    known = DatasetCatalog.list()
    if dataset_name not in known:
        near = difflib.get_close_matches(dataset_name, known, n=3)
        own = "give your own data by its annotation file and its folder of images"
        hint = f"did you mean {' or '.join(near)}?" if near else own
        raise UserError(f"dataset {dataset_name!r} is not known; {hint}")


def dataset_categories(dataset_name: str) -> Categories | None:
    """The categories of a registered dataset; None if it does not name them.

    Raises:
        UserError: the dataset is not registered, or has errors.
    """
    require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    categories = Categories.from_metadata(metadata)
    if categories is not None or metadata.get("json_file") is None:
        return categories
    require_valid(dataset_name)
    return check_dataset_once(str(metadata.json_file), str(metadata.image_root)).categories


def require_num_classes(cfg: DictConfig, dataset_name: str) -> None:
    """Raise an error if the model of a config has another number of classes than a dataset.

    Args:
        cfg: a whole config.
        dataset_name: a registered dataset; one that does not name its categories is not compared.

    Raises:
        UserError: the numbers differ.
    """
    categories = dataset_categories(dataset_name)
    if categories is None:
        return
    names = categories.names
    for node in literal_num_classes(cfg.model):
        if node.num_classes != len(names):
            raise UserError(
                f"the model has {counted(node.num_classes, 'class', 'classes')}, but dataset {dataset_name} has {len(names)} "
                f"({', '.join(names[:10])}{', ...' if len(names) > 10 else ''}); "
                f"set num_classes to {len(names)}, or give your own data as data.train and data.test, which sets it"
            )


def literal_num_classes(model: DictConfig | ListConfig) -> Iterator[DictConfig]:
    """The nodes of a model config that give ``num_classes`` as a number and not as a reference to another."""
    keys: Iterable[Any] = range(len(model)) if isinstance(model, ListConfig) else list(model.keys())
    for key in keys:
        if OmegaConf.is_interpolation(model, key) or OmegaConf.is_missing(model, key):
            continue
        value = model[key]
        if isinstance(value, DictConfig | ListConfig):
            yield from literal_num_classes(value)
        elif key == "num_classes" and value is not None and isinstance(model, DictConfig):
            yield model


def _checked(given: Dataset | None) -> DatasetReport | None:
    """The report on a dataset; None if none is given.

    Raises:
        UserError: the annotation file or the image folder is missing, or the dataset has errors.
    """
    if given is None:
        return None
    report = check_dataset_once(*given)
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
