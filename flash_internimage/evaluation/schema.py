"""Checks of the types in JSON files; the message names the place of the first wrong value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_internimage.data.findings import short_repr
from flash_internimage.errors import UserError


@dataclass(frozen=True)
class Kind:
    """A type of JSON values, with a name for messages.

    Attributes:
        name: for messages: "a finite number".
        accepts: whether a value from JSON is one.
    """

    name: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object with any keys, whose values all have one schema."""

    schema: Any


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


_LARGE = 1e7  # pixels, beyond the side of any image
TEXT = Kind("text", _is_text)
TEXT_OR_NULL = Kind("text or null", lambda value: value is None or _is_text(value))
NUMBER = Kind("a finite number", _is_number)
NUMBER_OR_NULL = Kind("a finite number or null", lambda value: value is None or _is_number(value))
COUNT = Kind("a whole number of 0 or more", lambda value: type(value) is int and 0 <= value < 2**53)
SIDE = Kind("a number of pixels, 1 or more", lambda value: type(value) is int and 1 <= value <= _LARGE)
WHOLE = Kind("a whole number", lambda value: type(value) is int and abs(value) < 2**53)
ID = Kind("a whole number or text", lambda value: type(value) is int or _is_text(value))
BOX = Kind(
    "four numbers of pixels, [x, y, width, height]",
    lambda value: isinstance(value, list) and len(value) == 4 and all(_is_number(n) and abs(n) <= _LARGE for n in value),
)
MASK = Kind("polygons or an RLE mask", lambda value: value is None or isinstance(value, list | dict))
FLAG = Kind("0 or 1", lambda value: value is None or value in (0, 1))

PREDICTIONS = [{"image_id": ID, "category_id": WHOLE, "bbox": BOX, "score": NUMBER, "segmentation?": MASK}]
"""Predictions in COCO's result format."""

GROUND_TRUTH = {
    "images": [{"id": ID, "file_name": TEXT}],
    "annotations": [{"image_id": ID, "category_id": WHOLE, "bbox": BOX, "iscrowd?": FLAG}],
}
"""Schema of the parts of an annotation file that a report reads."""

DETECTIONS = {
    "images": [{"id": WHOLE, "file_name": TEXT, "height": SIDE, "width": SIDE}],
    "annotations": [{**PREDICTIONS[0], "id": WHOLE, "image_id": WHOLE}],
    "categories": [{"id": WHOLE, "name": TEXT}],
}
"""Schema of the ``detections.json`` that ``flash-internimage predict`` writes."""

EVALUATION = {
    "dataset": TEXT,
    "annotation_file": TEXT_OR_NULL,
    "image_root": TEXT_OR_NULL,
    "num_images": COUNT,
    "max_dets_per_image?": COUNT,
    "weights_sha256?": TEXT_OR_NULL,
    "categories": [{"id": WHOLE, "name": TEXT, "objects": COUNT}],
    "tasks": Each(
        {"metrics": Each(NUMBER_OR_NULL), "by_category": Each(Each(NUMBER_OR_NULL)), "precision": [[[NUMBER_OR_NULL]]]}
    ),
}
"""The contents of ``evaluation.json``."""


def require(content: Any, schema: Any, source: str | Path) -> None:
    """Raise an exception unless a value from JSON has a schema.

    Args:
        content: the value.
        schema: a :class:`Kind`; a list with the schema of all items; a dict with the schema of each key, of which those that
            end in ``?`` may be absent, and others are ignored; or :class:`Each`.
        source: name of the file, for the message.

    Raises:
        UserError: the value does not match the schema; the message names the first wrong part.
    """
    problem = _problem(content, schema, "")
    if problem is not None:
        raise UserError(f"{source}: {problem}")


def _problem(value: Any, schema: Any, place: str) -> str | None:
    if isinstance(schema, Kind):
        return None if schema.accepts(value) else _wrong(place, schema.name, value)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return _wrong(place, "a list", value)
        items = ((item, schema[0], f"{place}[{i}]") for i, item in enumerate(value))
    elif not isinstance(value, dict):
        return _wrong(place, "an object", value)
    elif isinstance(schema, Each):
        items = ((item, schema.schema, f"{place}.{short_repr(key)}") for key, item in value.items())
    else:
        missing = next((key for key in schema if not key.endswith("?") and key not in value), None)
        if missing is not None:
            return f'{place.lstrip(".") or "it"} lacks "{missing}": {short_repr(value)}'
        names = ((key, key.removesuffix("?")) for key in schema)
        items = ((value[name], schema[key], f"{place}.{name}") for key, name in names if name in value)
    return next((problem for item in items if (problem := _problem(*item)) is not None), None)


def _wrong(place: str, expected: str, value: Any) -> str:
    return f"{place.lstrip('.') or 'it'} should be {expected}, but is {short_repr(value)}"
