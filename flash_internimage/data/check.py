"""Validation of datasets in COCO format, from the annotation file and folder listings alone: no image is opened.

Problems that make training wrong or impossible are errors. Annotations that detectron2 or the training dataset dicts skip, and
likely mistakes, are warnings. Each kind of problem is reported in one sentence, with its count and its first case.
"""

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from flash_internimage.errors import UserError

from .boxes import is_degenerate
from .categories import Categories, read_categories

_MAX_LISTED = 10  # categories that a message lists
_TOLERANCE = 1.0  # pixels by which a box may extend beyond its image: rounding errors, which COCO has too

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


class _Tally:
    """Counts problems by kind and keeps the first case of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, kind: str, case: str) -> None:
        self.counts[kind] += 1
        self.first.setdefault(kind, case)

    def sentences(self) -> list[str]:
        return [
            f"{count} {kind}: {'' if count == 1 else 'the first is '}{self.first[kind]}" for kind, count in self.counts.items()
        ]


def read_json(path: str) -> dict:
    """Read an annotation file.

    Raises:
        UserError: the file does not exist, cannot be read, or does not contain a JSON object.
    """
    local = PathManager.get_local_path(path)
    try:
        with open(local, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        hint = "check the path; detectron2's own datasets are expected in $DETECTRON2_DATASETS, by default ./datasets"
        raise UserError(f"annotation file {path} does not exist; {hint}") from None
    except OSError as error:
        raise UserError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # invalid JSON or invalid UTF-8
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


def _check_images(content: dict, image_root: str, errors: _Tally, warnings: _Tally) -> dict:
    """Return the images by id, except those that lack a required key."""
    images: dict = {}
    for image in content.get("images") or []:
        if not isinstance(image, dict) or not {"id", "file_name", "height", "width"} <= image.keys():
            errors.add('images lack one of "id", "file_name", "height" and "width"', str(image)[:200])
        elif image["id"] in images:
            errors.add("image ids are duplicates", f"{image['id']} ({image['file_name']})")
        else:
            images[image["id"]] = image
    by_name: dict[str, dict] = {}
    for image in images.values():
        other = by_name.setdefault(image["file_name"], image)
        if other is not image:
            warnings.add("image files are listed twice", f"{image['file_name']}, as images {other['id']} and {image['id']}")
    if "://" in image_root:  # remote storage is not listed
        return images
    if not os.path.isdir(image_root):
        errors.add(
            "image folder does not exist",
            f"{image_root}; check the path; detectron2's own datasets are expected in $DETECTRON2_DATASETS, "
            "by default ./datasets",
        )
        return images
    for name in missing_files(image_root, by_name):
        errors.add("image files are missing", f"{os.path.join(image_root, name)}, referenced by image {by_name[name]['id']}")
    return images


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(number, int | float) and math.isfinite(number) for number in box)
    )


def _check_segmentation(segmentation: object, image: dict, label: str, errors: _Tally, warnings: _Tally) -> None:
    if isinstance(segmentation, dict):
        size = [image["height"], image["width"]]
        if "counts" not in segmentation or segmentation.get("size") != size:
            errors.add(
                "RLE masks do not match the size of their image",
                f"{label}, whose mask should have size {size}, but has {segmentation.get('size')}",
            )
    elif isinstance(segmentation, list):
        if segmentation and not any(len(p) >= 6 and len(p) % 2 == 0 for p in segmentation if isinstance(p, list)):
            warnings.add("objects are skipped because no polygon has three vertices", label)
    else:
        errors.add("segmentations are neither polygons nor RLE masks", label)


def _check_box(annotation: dict, image: dict, label: str, warnings: _Tally) -> bool:
    """Return whether an object's box is used in training; add a warning for anything unusual about it."""
    x, y, width, height = annotation["bbox"]
    if is_degenerate((x, y, width, height), image["height"], image["width"]):
        warnings.add(
            "boxes are skipped in training because a side is below one pixel or they lie outside their image",
            f"{label}: {annotation['bbox']}",
        )
        return False
    outside = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if outside > _TOLERANCE:
        warnings.add(
            "boxes extend beyond their image and are clipped",
            f"{label}: {annotation['bbox']} in an image of {image['width']} x {image['height']} pixels",
        )
    if annotation.get("area", width * height) == 0:
        warnings.add('objects have "area": 0, so that evaluation treats them as small', label)
    return True


def _check_annotations(content: dict, images: dict, categories: Categories, errors: _Tally, warnings: _Tally) -> list[dict]:
    """Return the annotations to train on: valid objects without crowd regions."""
    objects = []
    ids = set()
    seen = set()
    for annotation in content.get("annotations") or []:
        if not isinstance(annotation, dict) or not {"id", "image_id", "category_id"} <= annotation.keys():
            errors.add('annotations lack one of "id", "image_id" and "category_id"', str(annotation)[:200])
            continue
        label = f"annotation {annotation['id']} of image {annotation['image_id']}"
        if annotation["id"] in ids:
            errors.add("annotation ids are duplicates", label)
        ids.add(annotation["id"])
        if annotation["category_id"] not in categories:
            errors.add(
                "annotations have a category that the file does not list",
                f"{label} with category {annotation['category_id']}; categories are {_listed(categories)}",
            )
            continue
        image = images.get(annotation["image_id"])
        if image is None:
            warnings.add("annotations are skipped because the file does not list their image", label)
            continue
        if annotation.get("ignore", 0):
            errors.add('annotations have "ignore", which detectron2 refuses; use "iscrowd"', label)
        if not _is_box(annotation.get("bbox")):
            errors.add('boxes are not four numbers ("bbox": [x, y, width, height])', f"{label}: {annotation.get('bbox')}")
            continue
        if annotation.get("segmentation"):
            _check_segmentation(annotation["segmentation"], image, label, errors, warnings)
        if annotation.get("iscrowd", 0) or not _check_box(annotation, image, label, warnings):
            continue
        key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"])
        if key in seen:
            warnings.add("objects have the same category and box as another object in their image", label)
        seen.add(key)
        objects.append(annotation)
    return objects


def _check_categories(report: DatasetReport, warnings: _Tally) -> None:
    by_name: dict[str, int] = {}
    for id_, name in report.categories.items():
        if by_name.setdefault(name, id_) != id_:
            warnings.add("categories have the same name as another category", f"{id_} and {by_name[name]} ({name})")
        if report.num_annotations and not report.objects[id_]:
            warnings.add("categories have no objects", f"{id_} ({name})")


def _count(report: DatasetReport, images: dict, objects: list[dict]) -> None:
    """Fill in the statistics of a report."""
    by_category = Counter(annotation["category_id"] for annotation in objects)
    with_category = Counter(category for _, category in {(a["image_id"], a["category_id"]) for a in objects})
    report.objects = {id_: by_category[id_] for id_ in report.categories}
    report.images_with = {id_: with_category[id_] for id_ in report.categories}
    report.image_sizes = Counter((image["height"], image["width"]) for image in images.values())
    report.num_without_objects = len(images) - len({annotation["image_id"] for annotation in objects})
    for annotation in objects:
        area = annotation["bbox"][2] * annotation["bbox"][3]
        report.objects_by_size[next(size for size, end in OBJECT_SIZES.items() if area < end)] += 1


def _listed(categories: Categories) -> str:
    shown = [f"{id_} ({name})" for id_, name in list(categories.items())[:_MAX_LISTED]]
    return ", ".join(shown) + (", ..." if len(categories) > _MAX_LISTED else "")


def check_dataset(annotation_file: str, image_root: str) -> DatasetReport:
    """Validate an annotation file and check that its image files exist.

    Apart from reading the file, this takes a few seconds per million annotations.

    Args:
        annotation_file: path of a JSON file in COCO format.
        image_root: folder to which the file names in it are relative.
    """
    annotation_file, image_root = str(annotation_file), str(image_root)
    report = DatasetReport(annotation_file, image_root)
    try:
        content = read_json(annotation_file)
        report.categories = read_categories(content, annotation_file)
    except ValueError as error:
        report.errors.append(str(error))
        return report
    errors, warnings = _Tally(), _Tally()
    report.num_images = len(content.get("images") or [])
    report.num_annotations = len(content.get("annotations") or [])
    images = _check_images(content, image_root, errors, warnings)
    _count(report, images, _check_annotations(content, images, report.categories, errors, warnings))
    _check_categories(report, warnings)
    report.errors = [f"annotation file {annotation_file}: {sentence}" for sentence in errors.sentences()]
    report.warnings = [f"annotation file {annotation_file}: {sentence}" for sentence in warnings.sentences()]
    if not report.num_images:
        report.errors.append(f'annotation file {annotation_file} lists no images under "images"')
    return report


@functools.lru_cache(maxsize=16)
def _check_unchanged(annotation_file: str, image_root: str, changed_ns: int, size: int) -> DatasetReport:
    return check_dataset(annotation_file, image_root)


def check_dataset_once(annotation_file: str, image_root: str) -> DatasetReport:
    """Cached version of ``check_dataset``: a file is read again only if it has changed since the last call."""
    try:
        status = os.stat(annotation_file)
    except OSError:
        return check_dataset(annotation_file, image_root)
    return _check_unchanged(annotation_file, image_root, status.st_mtime_ns, status.st_size)


def require_sound(report: DatasetReport) -> None:
    """Raise an exception if a report has errors.

    Raises:
        UserError: the dataset has errors; the message has one sentence for each kind.
    """
    if len(report.errors) == 1:
        raise UserError(report.errors[0])
    if report.errors:
        raise UserError(f"{len(report.errors)} kinds of errors in a dataset:\n  " + "\n  ".join(report.errors))


def require_valid(name: str) -> None:
    """Validate a registered dataset in COCO format, generating it first if it has a ``make_if_missing`` function.

    Datasets that are registered without an annotation file are not validated.

    Raises:
        UserError: the dataset has errors.
    """
    metadata = MetadataCatalog.get(name)
    make_if_missing = metadata.get("make_if_missing")
    if make_if_missing is not None:
        make_if_missing()
    if metadata.get("json_file") is not None:
        require_sound(check_dataset_once(str(metadata.json_file), str(metadata.image_root)))
