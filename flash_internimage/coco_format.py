"""COCO format to detectron2's dataset dicts and, for datasets that are registered in code as detectron2's tutorial does, back.

``DatasetCatalog.register(name, function)`` and ``MetadataCatalog.get(name).thing_classes`` are all that is needed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch import Tensor

from flash_internimage.errors import UserError

_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


def dataset_dicts_of(content: Mapping[str, Any]) -> Iterator[dict]:
    """Yield the images of an annotation file in ascending order of ids, as detectron2's ``load_coco_json`` returns them.

    Values are plain: the counts of a mask are text, and annotations have no ``bbox_mode``, which is XYWH. File names are
    relative. Classes are numbered in ascending order of category ids.

    Args:
        content: contents of the file, without errors (:mod:`.data.validation`).
    """
    class_of = {id_: number for number, id_ in enumerate(sorted(category["id"] for category in content["categories"]))}
    by_image: dict[Any, list[dict]] = defaultdict(list)
    for annotation in content.get("annotations", []):
        by_image[annotation["image_id"]].append(annotation)
    for image in sorted(content["images"], key=lambda image: image["id"]):
        objects = (_from_coco(annotation, class_of) for annotation in by_image.get(image["id"], ()))
        yield {
            "file_name": image["file_name"],
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [annotation for annotation in objects if annotation is not None],
        }


def _from_coco(annotation: dict, class_of: Mapping[int, int]) -> dict | None:
    """Return an annotation as detectron2 has it; None if it has polygons, but none with three vertices."""
    found = {key: annotation[key] for key in ("iscrowd", "bbox") if key in annotation}
    found["category_id"] = class_of[annotation["category_id"]]
    mask = annotation.get("segmentation")
    if isinstance(mask, dict) and mask:
        found["segmentation"] = _compressed(mask) if isinstance(mask["counts"], list) else mask
    elif mask:
        found["segmentation"] = [polygon for polygon in mask if len(polygon) % 2 == 0 and len(polygon) >= 6]
        if not found["segmentation"]:
            return None
    keypoints = annotation.get("keypoints")
    if keypoints:  # x and y are indices of pixels, whereas polygons are measured from the corner of the image
        found["keypoints"] = [value if i % 3 == 2 else value + 0.5 for i, value in enumerate(keypoints)]
    elif "keypoints" in annotation:
        found["keypoints"] = keypoints
    return found


def _compressed(mask: dict) -> dict:
    compressed = mask_util.frPyObjects(mask, *mask["size"])
    return {**compressed, "counts": compressed["counts"].decode("ascii")}


def is_registered_in_code(name: str) -> bool:
    """Return whether a registered dataset has no annotation file."""
    return MetadataCatalog.get(name).get("json_file") is None


def load_dataset_dicts(name: str) -> list[dict]:
    """Call the function of a registered dataset; return its dataset dicts with plain Python numbers, lists and strings.

    Arrays and tuples become lists, and an image without ``annotations`` gets an empty list if other images have some.

    Raises:
        UserError: the function returns no list of dicts, or a box has none of detectron2's absolute formats.
    """
    dataset_dicts = DatasetCatalog.get(name)
    if not isinstance(dataset_dicts, Sequence) or not all(isinstance(d, dict) for d in dataset_dicts):
        raise UserError(
            f"dataset {name}: its function should return a list of dicts in detectron2's dataset format, but returns "
            f"{type(dataset_dicts).__name__}"
        )
    dataset_dicts = [_plain_dict(d) for d in dataset_dicts]
    if any("annotations" in d for d in dataset_dicts):
        dataset_dicts = [{"annotations": [], **d} for d in dataset_dicts]
    for dataset_dict in dataset_dicts:
        for annotation in dataset_dict.get("annotations") or []:
            if isinstance(annotation, dict) and annotation.get("bbox_mode") not in _BOX_MODES:
                raise UserError(
                    f"dataset {name}: an annotation of image {dataset_dict.get('image_id')!r} has bbox_mode "
                    f"{annotation.get('bbox_mode')!r}; expected BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
                )
    return dataset_dicts


def contents_of(name: str) -> dict[str, Any]:
    """Return a dataset that is registered in code as the contents of an annotation file.

    Category ids are the model's classes 0, 1, ..., and annotations are numbered from 1. Without ``thing_classes`` the
    classes are named by their numbers.

    Raises:
        UserError: see :func:`load_dataset_dicts`.
    """
    dataset_dicts = load_dataset_dicts(name)
    names = MetadataCatalog.get(name).get("thing_classes")
    annotations: list[Any] = []
    images = []
    for dataset_dict in dataset_dicts:
        image = {key: dataset_dict[key] for key in ("file_name", "height", "width") if key in dataset_dict}
        if "image_id" in dataset_dict:
            image["id"] = dataset_dict["image_id"]
        images.append(image)
        of_image = dataset_dict.get("annotations", [])
        if not isinstance(of_image, list):
            of_image = [of_image]  # the validation says what it is
        for annotation in of_image:
            annotations.append(_to_coco(annotation, len(annotations) + 1, dataset_dict.get("image_id")))
    if names is None:
        classes = [a.get("category_id") for a in annotations if isinstance(a, dict)]
        names = [f"class {i}" for i in range(1 + max((c for c in classes if type(c) is int), default=0))]
    content = {"images": images, "categories": [{"id": i, "name": name} for i, name in enumerate(names)]}
    if any("annotations" in d for d in dataset_dicts):
        content["annotations"] = annotations
    return content


def _to_coco(annotation: Any, number: int, image_id: Any) -> Any:
    if not isinstance(annotation, dict):
        return annotation
    kept = ("category_id", "bbox", "segmentation", "iscrowd", "keypoints", "area", "ignore")
    found = {"id": number, "image_id": image_id, **{key: annotation[key] for key in kept if key in annotation}}
    if annotation["bbox_mode"] == BoxMode.XYXY_ABS:
        try:
            x0, y0, x1, y1 = annotation["bbox"]
            found["bbox"] = [x0, y0, x1 - x0, y1 - y0]
        except (TypeError, ValueError, KeyError):
            pass  # the validation says what it is
    return found


def _plain_dict(dataset_dict: dict) -> dict:
    plain = {key: value if key == "annotations" else _plain(value) for key, value in dataset_dict.items()}
    annotations = dataset_dict.get("annotations")
    if isinstance(annotations, Sequence):
        plain["annotations"] = [_plain(annotation) for annotation in annotations]
    return plain


def _plain(value: Any) -> Any:
    """Return arrays, tuples, bytes and paths as lists and strings, within lists and dicts too; other values as they are."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("ascii", errors="replace")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if set(map(type, value)) <= {int, float}:  # the coordinates of a polygon
            return list(value)
        return [_plain(item) for item in value]
    return value
