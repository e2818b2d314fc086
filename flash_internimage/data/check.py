"""Validation of datasets in COCO format, from the annotation file and folder listings alone: no image is opened.

Problems that make training wrong or impossible are errors. Annotations that detectron2 or the training dataset dicts skip, and
likely mistakes, are warnings. Each kind of problem is reported in one sentence, with its count and its first case.
"""

import contextlib
import gc
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from flash_internimage.errors import UserError
from flash_internimage.path_manager import PathManager
from flash_internimage.plurals import counted

from .categories import Categories
from .findings import Findings
from .validation import MIN_SIDE, ValidatedContents, validate_contents

OBJECT_SIZES = {"small": 32**2, "medium": 96**2, "large": math.inf}
"""COCO's object sizes, each with its upper bound on the area in square pixels (exclusive)."""


@dataclass
class DatasetReport:
    """Statistics of a dataset and the problems found in it.

    Attributes:
        annotation_file: path as given.
        image_root: path as given.
        categories: empty if the file has none that can be used.
        objects: category id -> number of objects, without crowd regions.
        num_images: number of images listed.
        num_annotations: number of annotations listed, including crowd regions.
        images_with: category id -> number of images with objects of that category.
        image_sizes: (height, width) in pixels, as stated in the annotation file -> number of images.
        objects_by_size: key of ``OBJECT_SIZES`` -> number of objects, by the area of their boxes.
        num_without_objects: number of images without objects.
        errors: one sentence for each kind of problem that must be fixed.
        warnings: one sentence for each kind of annotation that is skipped or looks like a mistake.
        untrainable: a sentence if there are annotations, but none to train on; such a dataset can only be evaluated on.
        source: subject of the sentences; by default the annotation file.
        in_code: whether the dataset is registered in code, whose images may be anywhere.
    """

    annotation_file: str
    image_root: str
    categories: Categories = field(default_factory=lambda: Categories({}))
    objects: dict[int, int] = field(default_factory=dict)
    num_images: int = 0
    num_annotations: int = 0
    images_with: dict[int, int] = field(default_factory=dict)
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    objects_by_size: Counter[str] = field(default_factory=Counter)
    num_without_objects: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    untrainable: str | None = None
    source: str = ""
    in_code: bool = False

    def __post_init__(self) -> None:
        self.source = self.source or f"annotation file {self.annotation_file}"


@contextlib.contextmanager
def many_objects() -> Iterator[None]:
    """Pause the garbage collector, which would search millions of objects for cycles: reading takes twice the time then."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_json(path: str) -> dict:
    """Read an annotation file.

    Raises:
        UserError: the file does not exist, cannot be read, or does not contain a JSON object.
    """
    local = PathManager.get_local_path(path)
    try:
        with open(local, encoding="utf-8") as file, many_objects():
            content = json.load(file)
    except FileNotFoundError:
        hint = "check the path; detectron2's own datasets are expected in $DETECTRON2_DATASETS, by default ./datasets"
        raise UserError(f"annotation file {path} does not exist; {hint}") from None
    except OSError as error:
        raise UserError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # invalid JSON or invalid UTF-8, or lists within lists within lists
        raise UserError(f"annotation file {path} should be JSON, but it is truncated or malformed ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"annotation file {path} should contain a JSON object, got a {type(content).__name__}")
    return content


def missing_files(image_root: str, file_names: Iterable[str]) -> list[str]:
    """Return the files that are missing from a folder; lists each subfolder once and opens no file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for file_name in file_names:
        folder, name = os.path.split(os.path.join(image_root, file_name))
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(folder))
            except OSError:
                listings[folder] = set()
        if name not in listings[folder]:
            missing.append(file_name)
    return missing


def file_names_of(images: Iterable[dict]) -> dict[str, int | str]:
    """Return the id of the image of each file name of an annotation file."""
    return {image["file_name"]: image["id"] for image in images}


def check_files(report: DatasetReport, ids: Mapping[str, int | str]) -> None:
    """Add an error to a report if image files are missing.

    Args:
        ids: id of the image of each file name, as ``file_names_of`` returns them.
    """
    if not report.categories or "://" in report.image_root:  # remote storage is not listed
        return
    errors = Findings()
    if report.image_root and not os.path.isdir(report.image_root):
        errors.say(
            f"the image folder does not exist: {report.image_root}; check the path; detectron2's own datasets are expected in "
            "$DETECTRON2_DATASETS, by default ./datasets"
        )
    else:
        for name in missing_files(report.image_root, ids):
            case = f"{os.path.join(report.image_root, name)}, referenced by image {ids[name]!r}"
            errors.add("image [file is|files are] missing", case)
    report.errors += [f"{report.source}: {sentence}" for sentence in errors.sentences()]


def _check_categories(report: DatasetReport, warnings: Findings) -> None:
    by_name: dict[str, int] = {}
    for id_, name in report.categories.items():
        if by_name.setdefault(name, id_) != id_:
            warnings.add(
                "[category has|categories have] the same name as another category", f"{id_} and {by_name[name]} ({name})"
            )
        if report.num_annotations and not report.objects[id_]:
            warnings.add("[category has|categories have] no objects", f"{id_} ({name})")


def _count(report: DatasetReport, images: dict, objects: list[dict]) -> None:
    """Fill in the statistics of a report."""
    by_category = Counter(annotation["category_id"] for annotation in objects)
    with_category = Counter(category for _, category in {(a["image_id"], a["category_id"]) for a in objects})
    report.objects = {id_: by_category[id_] for id_ in report.categories}
    report.images_with = {id_: with_category[id_] for id_ in report.categories}
    report.image_sizes = Counter((image["height"], image["width"]) for image in images.values())
    report.num_without_objects = len(images) - len({annotation["image_id"] for annotation in objects})
    areas = [annotation["bbox"][2] * annotation["bbox"][3] for annotation in objects]
    numbers = np.searchsorted(list(OBJECT_SIZES.values()), areas, side="right")
    counts = np.bincount(numbers, minlength=len(OBJECT_SIZES)).tolist()
    report.objects_by_size += Counter(dict(zip(OBJECT_SIZES, counts, strict=True)))


def _check_crowds(report: DatasetReport, found: ValidatedContents) -> None:
    """Report the annotations that are left out of training, and a dataset of which nothing is left."""
    count = found.num_crowds
    if count:
        found.warnings.say(
            f"{counted(count, 'crowd region is', 'crowd regions are')} left out of training; the first is {found.first_crowd}"
        )
    if not report.num_annotations:
        found.warnings.say("there are no annotations, so that models can be run on this dataset, but not trained")
    sizes = (found.images[annotation["image_id"]] for annotation in found.objects)
    if not report.num_annotations or any(min(size["height"], size["width"]) >= MIN_SIDE for size in sizes):
        return
    if count == report.num_annotations:
        reason = "the only annotation is a crowd region" if count == 1 else f"all {count} annotations are crowd regions"
        fix = 'set "iscrowd" to 0 where an annotation is a single object'
    else:
        number = report.num_annotations
        reason = (
            "the only annotation cannot be trained on" if number == 1 else f"none of the {number} annotations can be trained on"
        )
        fix = "see the warnings"
    report.untrainable = f"{report.source}: {reason}, so that nothing is left to train on; {fix}"


@many_objects()
def fill(report: DatasetReport, content: Mapping) -> ValidatedContents:
    """Validate the contents of a dataset and fill in its report; whether the image files exist is not checked."""
    found = validate_contents(content, in_folder=not report.in_code)
    report.categories = found.categories
    if found.categories:
        report.num_images, report.num_annotations = (
            len(entries) if isinstance(entries := content.get(key), list) else 0 for key in ("images", "annotations")
        )
        _count(report, found.images, found.objects)
        _check_categories(report, found.warnings)
        if not report.num_images:
            found.errors.say('there are no images; list them under "images"')
        if not found.errors.sentences():
            _check_crowds(report, found)
    report.errors = [f"{report.source}: {sentence}" for sentence in found.errors.sentences()]
    report.warnings = [f"{report.source}: {sentence}" for sentence in found.warnings.sentences()]
    return found


def fill_and_check_files(report: DatasetReport, content: Mapping) -> None:
    """Validate the contents of a dataset, check that its image files exist, and fill in its report."""
    check_files(report, file_names_of(fill(report, content).images.values()))


def read_and_validate(annotation_file: str, image_root: str = "") -> tuple[DatasetReport, dict, dict[str, int | str]]:
    """Return the report of an annotation file, its contents, and the id of the image of each file name.

    Whether the image files exist is not checked. The contents are empty if the file cannot be read, as the report says then.
    """
    report = DatasetReport(annotation_file, image_root)
    try:
        content = read_json(annotation_file)
    except UserError as error:
        report.errors.append(str(error))
        return report, {}, {}
    return report, content, file_names_of(fill(report, content).images.values())


def check_dataset(annotation_file: str, image_root: str) -> DatasetReport:
    """Validate an annotation file and check that its image files exist.

    Apart from reading the file, this takes a few seconds per million annotations.

    Args:
        annotation_file: path of a JSON file in COCO format.
        image_root: folder to which the file names in it are relative.
    """
    report, _, ids = read_and_validate(str(annotation_file), str(image_root))
    check_files(report, ids)
    return report


def check_contents(content: Mapping, image_root: str, source: str) -> DatasetReport:
    """Validate a dataset that was converted from another format, and check that its image files exist.

    Args:
        content: contents of an annotation file in COCO format.
        image_root: folder to which the file names in it are relative.
        source: subject of the sentences, such as ``YOLO dataset data.yaml``.
    """
    report = DatasetReport(source, image_root, source=source)
    fill_and_check_files(report, content)
    return report


def require_sound(report: DatasetReport) -> None:
    """Raise an exception if a report has errors.

    Raises:
        UserError: the dataset has errors; the message has one sentence for each kind.
    """
    if len(report.errors) == 1:
        raise UserError(report.errors[0])
    if report.errors:
        raise UserError(f"{len(report.errors)} kinds of errors in a dataset:\n  " + "\n  ".join(report.errors))
