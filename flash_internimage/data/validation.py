"""Validation of the contents of an annotation file in COCO format: categories, images and annotations.

The checker, training and evaluation share these rules. Contents without errors can be loaded, trained on and evaluated;
every error is reported with the offending value in Python's notation (``repr``), so that ``'1'`` differs from ``1``.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flash_internimage.images import IMAGES_ANYWHERE_VARIABLE, leads_outside

from .boxes import is_degenerate
from .categories import Categories
from .findings import Findings, short_repr
from .run_lengths import problem_of_counts, problems_of_strings

MIN_SIDE = 32
"""Images with a side below this many pixels are left out of training, unless a config says otherwise."""

_MAX_LISTED = 10  # categories that a message lists
_MAX_AREA = 1e10  # square pixels; COCO's evaluation ignores larger objects, all of them
_MAX_PIXELS = 2**31  # of an image; pycocotools counts pixels in 32 bits
_TOLERANCE = 1.0  # pixels by which a box may extend beyond its image: rounding errors, which COCO has too
_BATCH = 1 << 18  # characters of compressed masks that are decoded at once


@dataclass
class ValidatedContents:
    """The usable contents of an annotation file, and the problems of the rest.

    Attributes:
        categories: valid categories; empty if any is invalid.
        images: image id -> entry of the annotation file, of valid images.
        objects: annotations to train on: valid objects without crowd regions.
        num_crowds: number of crowd regions.
        first_crowd: label of the first (``"annotation 7 of image 3"``).
        errors: problems that make loading, training or evaluation fail or go wrong.
        warnings: annotations that are skipped, and likely mistakes.
    """

    categories: Categories = field(default_factory=lambda: Categories({}))
    images: dict = field(default_factory=dict)
    objects: list[dict] = field(default_factory=list)
    num_crowds: int = 0
    first_crowd: str = ""
    errors: Findings = field(default_factory=Findings)
    warnings: Findings = field(default_factory=Findings)


def validate_contents(content: Mapping, *, in_folder: bool = True) -> ValidatedContents:
    """Validate the contents of an annotation file.

    Takes a few seconds per million annotations.

    Args:
        content: the JSON object; not modified.
        in_folder: whether the images are those of a folder; False for a dataset that is registered in code.
    """
    found = ValidatedContents()
    _validate_categories(content, found)
    if found.errors.sentences():
        return found
    invalid_images = _validate_images(content, found, in_folder)
    _Annotations(found, invalid_images).validate(_entries(content, "annotations", found.errors))
    return found


def usable_images(content: Mapping) -> dict:
    """Return the valid images of an annotation file by id, even if the file has errors."""
    found = ValidatedContents()
    _validate_images(content, found, in_folder=True)
    return found.images


def is_usable(annotation: Mapping, height: int, width: int) -> bool:
    """Return whether a single annotation is without errors, apart from its ids, and can be drawn."""
    return problem_of_annotation(annotation, height, width) is None


def problem_of_annotation(annotation: Mapping, height: int, width: int) -> str | None:
    """Return the first error of a single annotation, apart from its ids; None if it can be drawn.

    Args:
        annotation: an annotation in COCO format.
        height: height of its image in pixels.
        width: width of its image in pixels.
    """
    content = {
        "images": [{"id": 0, "file_name": "image", "height": height, "width": width}],
        "annotations": [{**annotation, "id": 0, "image_id": 0, "category_id": 0}],
        "categories": [{"id": 0, "name": "category"}],
    }
    return next(iter(validate_contents(content).errors.sentences()), None)


def _entries(content: Mapping, key: str, errors: Findings) -> list[dict]:
    """Return the objects of one of the file's lists; a missing list is empty."""
    entries = content.get(key, [])
    if not isinstance(entries, list):
        errors.say(f'"{key}" should be a list, but is {short_repr(entries)}')
        return []
    for entry in entries:
        if not isinstance(entry, dict):
            errors.add(f'[entry|entries] of "{key}" [is not an object|are not objects]', short_repr(entry))
    return [entry for entry in entries if isinstance(entry, dict)]


def _validate_categories(content: Mapping, found: ValidatedContents) -> None:
    used = next((a.get("category_id") for a in _entries(content, "annotations", Findings()) if "category_id" in a), None)
    names: dict[int, str] = {}
    for category in _entries(content, "categories", found.errors):
        if "id" not in category or "name" not in category:
            found.errors.add('[category lacks|categories lack] "id" or "name"', short_repr(category))
        elif type(category["id"]) is not int:
            case = f"{short_repr(category['id'])} (name {short_repr(category['name'])})"
            first = "" if used is None else f", whereas the first annotation has category_id {short_repr(used)}"
            found.errors.add("category [id is not a whole number|ids are not whole numbers]", case + first)
        elif not _is_text(category["name"]):
            case = f"{short_repr(category['name'])} of category {short_repr(category['id'])}"
            found.errors.add("category [name is|names are] not text", case)
        elif category["id"] in names:
            case = f"{short_repr(category['id'])}, {names[category['id']]!r} and {category['name']!r}"
            found.errors.add("category [id is that|ids are those] of another category", case)
        else:
            names[category["id"]] = category["name"]
    if not names and not found.errors.sentences():
        found.errors.say('there are no categories; list them under "categories" as [{"id", "name"}]')
    if not found.errors.sentences():
        found.categories = Categories(dict(sorted(names.items())))


def _is_text(value: object) -> bool:
    """Return whether a value is a string that can be printed and written to files."""
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _is_id(value: object) -> bool:
    return type(value) is int or _is_text(value)


def _validate_images(content: Mapping, found: ValidatedContents, in_folder: bool) -> set:
    """Fill in the valid images; return the ids of the invalid ones."""
    errors, images = found.errors, found.images
    invalid = set()
    by_name: dict[str, dict] = {}
    for image in _entries(content, "images", errors):
        if not {"id", "file_name", "height", "width"} <= image.keys():
            errors.add('[image lacks|images lack] one of "id", "file_name", "height" and "width"', short_repr(image))
            continue
        id_, name = image["id"], image["file_name"]
        label = f"image {id_!r}" if _is_id(id_) else f"image {short_repr(id_)}"
        if not _is_id(id_):
            errors.add(
                "image [id is neither a whole number|ids are neither whole numbers] nor text",
                f"{short_repr(id_)} ({short_repr(name)})",
            )
            continue
        problems = list(_problems_of_image(image, in_folder))
        for kind, value in problems:
            errors.add(kind, f"{label}: {short_repr(value)}")
        if problems:
            invalid.add(id_)
        elif id_ in images:
            errors.add("image [id is a duplicate|ids are duplicates]", f"{id_!r} ({name})")
        else:
            images[id_] = image
            other = by_name.setdefault(name, image)
            if other is not image:
                found.warnings.add("image [file is|files are] listed twice", f"{name}, as images {other['id']!r} and {id_!r}")
            if min(image["height"], image["width"]) < MIN_SIDE:
                case = f"{label} of {image['width']} x {image['height']} pixels"
                found.warnings.add(
                    f"[image is|images are] left out of training because a side is below {MIN_SIDE} pixels", case
                )
    kinds = {type(id_): id_ for id_ in images}
    if len(kinds) > 1:
        errors.say(f"image ids should be all whole numbers or all text, but include {' and '.join(map(repr, kinds.values()))}")
    return invalid


def _problems_of_image(image: dict, in_folder: bool) -> Iterator[tuple[str, object]]:
    """Yield the kind and the value of each problem of an image that has an id."""
    if not _is_text(image["file_name"]):
        yield "image file [name is|names are] not text", image["file_name"]
    elif in_folder and leads_outside(image["file_name"]):
        fix = f"if you trust the file, set {IMAGES_ANYWHERE_VARIABLE}=1"
        yield f"image file [name leads|names lead] out of the image folder ({fix})", image["file_name"]
    sides = [image["width"], image["height"]]
    for key, side in zip(("width", "height"), sides, strict=True):
        if type(side) is not int or side < 1:
            yield f'[image has|images have] a "{key}" that is not a whole number of 1 or more', side
            return
    if sides[0] * sides[1] >= _MAX_PIXELS:
        yield "[image is|images are] too large (width x height should be below 2^31)", sides


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _are_numbers(values: list) -> bool:
    """Return whether all values of a list are finite numbers, without a Python loop."""
    try:
        total = sum(values)
    except (TypeError, OverflowError):  # not a number; an integer beyond float64
        return False
    return total - total == 0.0  # false for NaN and infinity


def _fit_float64(numbers: list) -> bool:
    """Return whether finite numbers, integers among them, can be converted to float64."""
    return not numbers or (-sys.float_info.max <= min(numbers) and max(numbers) <= sys.float_info.max)


class _Annotations:
    """Validates annotations one by one, and compressed masks in batches."""

    def __init__(self, found: ValidatedContents, invalid_images: set) -> None:
        self.found = found
        self.errors = found.errors
        self.warnings = found.warnings
        self.invalid_images = invalid_images
        self.known_images = {str(id_): id_ for id_ in found.images}
        self.compressed: list[tuple[str, str | bytes, int]] = []  # label, counts and number of pixels
        self.num_characters = 0
        self.num_without_mask = 0
        self.first_without_mask = ""

    def validate(self, annotations: list[dict]) -> None:
        """Validate all annotations, and fill in the objects to train on."""
        ids = set()
        seen = set()
        objects = self.found.objects
        for annotation in annotations:
            if not ("id" in annotation and "image_id" in annotation and "category_id" in annotation):
                self.errors.add(
                    '[annotation lacks|annotations lack] one of "id", "image_id" and "category_id"', short_repr(annotation)
                )
                continue
            id_, image_id = annotation["id"], annotation["image_id"]
            if not _is_id(id_):
                self.errors.add(
                    "annotation [id is neither a whole number|ids are neither whole numbers] nor text", short_repr(id_)
                )
                continue
            if id_ in ids:
                self.errors.add("annotation [id is a duplicate|ids are duplicates]", _label(annotation))
            ids.add(id_)
            if self._is_object(annotation):
                key = (image_id, annotation["category_id"], *annotation["bbox"])
                if key in seen:
                    self.warnings.add(
                        "[object has|objects have] the same category and box as another object in [its|their] image",
                        _label(annotation),
                    )
                seen.add(key)
                objects.append(annotation)
        self._decode()
        if 0 < self.num_without_mask < len(objects):
            have = "has" if self.num_without_mask == 1 else "have"
            self.warnings.say(
                f"{self.num_without_mask} of {len(objects)} objects {have} no mask, so that only models that predict boxes "
                f"alone can be trained; the first is {self.first_without_mask}"
            )

    def _is_object(self, annotation: dict) -> bool:
        """Validate an annotation with an id; return whether it is trained on."""
        image = self._image_of(annotation)
        if image is None or not self._has_known_category(annotation):
            return False
        ignore = annotation.get("ignore", 0)
        if ignore != 0:
            self._error(
                '[annotation has|annotations have] "ignore", which detectron2 refuses; use "iscrowd"', annotation, ignore
            )
        is_crowd = annotation.get("iscrowd", 0)
        if not (is_crowd is None or is_crowd in (0, 1)):
            self._error('[value|values] of "iscrowd" [is|are] neither 0 nor 1', annotation, is_crowd)
        area = annotation.get("area", 0)
        if not (_is_number(area) and 0 <= area <= _MAX_AREA):
            self._error('[value|values] of "area" [is not a number|are not numbers] from 0 to 1e10', annotation, area)
        keypoints = annotation.get("keypoints")
        if not (keypoints is None or (isinstance(keypoints, list) and _are_numbers(keypoints) and _fit_float64(keypoints))):
            self._error('[value|values] of "keypoints" [is not a list|are not lists] of finite numbers', annotation, keypoints)
        is_sound = self._has_valid_box(annotation, image)
        has_mask = self._has_mask(annotation, image)
        if is_crowd:
            self.found.num_crowds += 1
            self.found.first_crowd = self.found.first_crowd or _label(annotation)
            return False
        if not (is_sound and has_mask and self._is_used(annotation, image)):
            return False
        if not annotation.get("segmentation"):
            self.num_without_mask += 1
            self.first_without_mask = self.first_without_mask or _label(annotation)
        return True

    def _error(self, kind: str, annotation: dict, value: object) -> None:
        self.errors.add(kind, f"{_label(annotation)}: {short_repr(value)}")

    def _image_of(self, annotation: dict) -> dict | None:
        image_id = annotation["image_id"]
        if not _is_id(image_id):
            self._error(
                '[value of "image_id" is neither a whole number|values of "image_id" are neither whole numbers] nor text',
                annotation,
                image_id,
            )
            return None
        image = self.found.images.get(image_id)
        if image is None and image_id not in self.invalid_images:
            listed = self.known_images.get(str(image_id))
            if listed is not None:
                self.errors.add(
                    '[value|values] of "image_id" [differs|differ] from the id of [its|their] image in type',
                    f"{_label(annotation)}, whose image has the id {listed!r}",
                )
            else:
                self.warnings.add(
                    "[annotation is|annotations are] skipped because the file does not list [its|their] image",
                    _label(annotation),
                )
        return image

    def _has_known_category(self, annotation: dict) -> bool:
        category = annotation["category_id"]
        if type(category) is int and category in self.found.categories:
            return True
        self.errors.add(
            "[annotation has|annotations have] a category that the file does not list",
            f"{_label(annotation)} with category {short_repr(category)}; categories are {_listed(self.found.categories)}",
        )
        return False

    def _has_valid_box(self, annotation: dict, image: dict) -> bool:
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and bool not in map(type, box) and _are_numbers(box)):
            self._error('[box is|boxes are] not four finite numbers ("bbox": [x, y, width, height])', annotation, box)
            return False
        x, y, width, height = box
        right, bottom = 2 * image["width"], 2 * image["height"]
        if not (
            -image["width"] <= x <= right
            and -image["height"] <= y <= bottom
            and -image["width"] <= x + width <= right
            and -image["height"] <= y + height <= bottom
        ):
            self._far("[box is|boxes are]", annotation, box, image)
            return False
        return True

    def _far(self, what: str, annotation: dict, value: object, image: dict) -> None:
        self.errors.add(
            f"{what} farther from [its|their] image than its size",
            f"{_label(annotation)}: {short_repr(value)} in an image of {image['width']} x {image['height']} pixels",
        )

    def _has_mask(self, annotation: dict, image: dict) -> bool:
        """Validate the segmentation; return whether the object can be used with what it has."""
        segmentation = annotation.get("segmentation")
        if segmentation is None or segmentation == []:
            return True
        if isinstance(segmentation, dict):
            return self._is_run_lengths(segmentation, annotation, image)
        if not isinstance(segmentation, list):
            self._error(
                "[segmentation is neither a list of polygons nor an RLE mask|segmentations are neither polygons nor RLE masks]",
                annotation,
                segmentation,
            )
            return False
        usable = False
        for polygon in segmentation:
            if not isinstance(polygon, list):
                self._error(
                    "[segmentation is|segmentations are] not a list of lists of numbers ([[x, y, x, y, ...]])",
                    annotation,
                    segmentation,
                )
                return False
            if not self._is_polygon(polygon, annotation, image):
                return False
            usable = usable or (len(polygon) >= 6 and len(polygon) % 2 == 0)
        if not usable:
            self.warnings.add("[object is|objects are] skipped because no polygon has three vertices", _label(annotation))
        return usable

    def _is_polygon(self, polygon: list, annotation: dict, image: dict) -> bool:
        if not polygon:
            return True
        if not _are_numbers(polygon):
            wrong = next((number for number in polygon if not _is_number(number)), polygon)
            self._error("[polygon has|polygons have] coordinates that are not finite numbers", annotation, wrong)
            return False
        width, height = image["width"], image["height"]
        side = min(width, height)
        if -side <= min(polygon) and max(polygon) <= 2 * side:  # a quick test of both axes at once
            return True
        for i, number in enumerate(polygon):
            length = height if i % 2 else width
            if not -length <= number <= 2 * length:
                self._far("polygon [coordinate is|coordinates are]", annotation, number, image)
                return False
        return True

    def _is_run_lengths(self, mask: dict, annotation: dict, image: dict) -> bool:
        size, counts = [image["height"], image["width"]], mask.get("counts")
        if "counts" not in mask or mask.get("size") != size:
            self.errors.add(
                "RLE [mask does|masks do] not match the size of [its|their] image",
                f"{_label(annotation)}, whose mask should have size {size}, but has {short_repr(mask.get('size'))}",
            )
            return False
        pixels = size[0] * size[1]
        if isinstance(counts, str | bytes):
            self.compressed.append((_label(annotation), counts, pixels))
            self.num_characters += len(counts)
            if self.num_characters >= _BATCH:
                self._decode()
            return True
        problem = (
            problem_of_counts(counts, pixels)
            if isinstance(counts, list)
            else f"whose counts are neither a list nor text: {short_repr(counts)}"
        )
        if problem is not None:
            self.errors.add("RLE [mask is|masks are] invalid", f"{_label(annotation)}, {problem}")
        return problem is None

    def _decode(self) -> None:
        """Validate the compressed masks that were collected."""
        if self.compressed:
            labels, counts, pixels = zip(*self.compressed, strict=True)
            for i, problem in problems_of_strings(counts, pixels):
                self.errors.add("RLE [mask is|masks are] invalid", f"{labels[i]}, {problem}")
        self.compressed.clear()
        self.num_characters = 0

    def _is_used(self, annotation: dict, image: dict) -> bool:
        """Return whether an object's box is used in training; add a warning for anything unusual about it."""
        box = annotation["bbox"]
        x, y, width, height = box
        if is_degenerate(box, image["height"], image["width"]):
            self.warnings.add(
                "[box is|boxes are] skipped in training because [it is|they are] less than one pixel wide or high, or "
                "[lies|lie] outside [its|their] image",
                f"{_label(annotation)}: {box}",
            )
            return False
        outside = max(-x, -y, x + width - image["width"], y + height - image["height"])
        if outside > _TOLERANCE:
            self.warnings.add(
                "[box extends beyond its image and is|boxes extend beyond their image and are] clipped",
                f"{_label(annotation)}: {box} in an image of {image['width']} x {image['height']} pixels",
            )
        if annotation.get("area", width * height) == 0:
            self.warnings.add(
                '[object has|objects have] "area": 0, so that evaluation treats [it|them] as small', _label(annotation)
            )
        return True


def _label(annotation: dict) -> str:
    if _is_text(place := annotation.get("place")):  # of a dataset that was converted to COCO format: file and line
        return f"object {place}"
    return f"annotation {short_repr(annotation['id'])} of image {short_repr(annotation['image_id'])}"


def _listed(categories: Categories) -> str:
    shown = [f"{id_!r} ({name})" for id_, name in list(categories.items())[:_MAX_LISTED]]
    return ", ".join(shown) + (", ..." if len(categories) > _MAX_LISTED else "")
