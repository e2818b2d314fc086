"""Registered datasets by name: from an annotation file, which is read once per machine, or from a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog

from flash_internimage.coco_format import contents_of, is_registered_in_code
from flash_internimage.errors import UserError
from flash_internimage.plurals import counted

from .annotations import check_dataset_once, read_annotations
from .categories import Categories
from .check import DatasetReport, fill, fill_and_check_files, require_sound

_COCO_LOADERS = {("detectron2.data.datasets.coco", "register_coco_instances.<locals>.<lambda>")}


def loads_coco_json(function: Callable[[], Sequence[dict]]) -> bool:
    """Return whether the function of a dataset only reads an annotation file with detectron2's ``load_coco_json``.

    Others may add keys to the dataset dicts, or read files of other formats, and are called.
    """
    if getattr(function, "loads_coco_json", False):
        return True
    return (getattr(function, "__module__", ""), getattr(function, "__qualname__", "")) in _COCO_LOADERS


def set_categories(name: str, categories: Categories) -> None:
    """Name the classes of a dataset in its metadata, as ``load_coco_json`` does.

    Raises:
        UserError: the metadata has other classes, or other category ids.
    """
    metadata = MetadataCatalog.get(name)
    for key, noun, plural, found in (
        ("thing_classes", "class", "classes", categories.names),
        (
            "thing_dataset_id_to_contiguous_id",
            "pair of category id and class",
            "pairs of category id and class",
            categories.class_of,
        ),
    ):
        known = metadata.get(key)
        if known is None:
            metadata.set(**{key: found})
        elif type(found)(known) != found:
            raise UserError(
                f"dataset {name} is registered with {counted(known, noun, plural)} ({_first(known)}), but its annotation file "
                f"{metadata.json_file} has {len(found)} ({_first(found)}); give your own data as data.train.json and "
                "data.train.images, or register it under another name"
            )


def _first(values: Sequence | Mapping, limit: int = 10) -> str:
    texts = [f"{id_}: {class_}" for id_, class_ in values.items()] if isinstance(values, Mapping) else [*map(str, values)]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")


def check_registered_in_code(name: str) -> DatasetReport:
    """Validate a dataset that is registered as a function, without an annotation file.

    Annotations are numbered from 1 in messages, over all dataset dicts.

    Args:
        name: a dataset of detectron2's ``DatasetCatalog``.
    """
    report = DatasetReport(name, "", source=f"dataset {name}", in_code=True)
    try:
        content = contents_of(name)
    except UserError as error:
        report.errors.append(str(error))
    else:
        fill_and_check_files(report, content)
    return report


@functools.lru_cache(maxsize=16)
def _check_function(name: str, function: Callable[[], list[dict]]) -> DatasetReport:
    return check_registered_in_code(name)


def check_registered_once(name: str) -> DatasetReport:
    """Cached validation of a registered dataset: of its annotation file, or of what its function returns."""
    if is_registered_in_code(name):
        return _check_function(name, DatasetCatalog[name])
    metadata = MetadataCatalog.get(name)
    return check_dataset_once(str(metadata.json_file), str(metadata.get("image_root", "")))


def require_valid_contents(name: str) -> None:
    """Raise an exception if the annotations of a registered dataset have errors; its image files are not checked.

    Raises:
        UserError: the annotations have errors or cannot be read.
    """
    make_if_missing(name)
    if is_registered_in_code(name):
        report = DatasetReport(name, "", source=f"dataset {name}", in_code=True)
        fill(report, contents_of(name))
    else:
        report = read_annotations(str(MetadataCatalog.get(name).json_file)).report
    require_sound(report)


def require_valid(name: str) -> None:
    """Validate a registered dataset, generating it first if it has a ``make_if_missing`` function.

    Raises:
        UserError: the dataset has errors.
    """
    make_if_missing(name)
    require_sound(check_registered_once(name))


def make_if_missing(name: str) -> None:
    """Generate a dataset whose metadata has a ``make_if_missing`` function."""
    generate = MetadataCatalog.get(name).get("make_if_missing")
    if generate is not None:
        generate()
