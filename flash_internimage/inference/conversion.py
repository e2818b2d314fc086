"""Conversion of ``detections.json`` to the formats of annotation tools and of other libraries.

Each function turns the detections of images into the texts of the files to write, by relative path.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pycocotools.mask as mask_util
import yaml

from flash_internimage.data.run_lengths import require_valid_masks
from flash_internimage.errors import UserError
from flash_internimage.evaluation.saved import read_json
from flash_internimage.evaluation.schema import DETECTIONS, require

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")  # characters that XML and YAML cannot hold as they are

Files = dict[str, str]
"""Text of each file, by its path relative to the output folder."""


@dataclass(frozen=True)
class Detection:
    """A detected object.

    Attributes:
        category: index into the class names.
        box: x0, y0, x1 and y1 in pixels.
        score: from 0 to 1.
        polygon: x and y of the outline of its largest part, along the edges of its pixels; None without a mask.
    """

    category: int
    box: tuple[float, float, float, float]
    score: float
    polygon: list[tuple[float, float]] | None = None


@dataclass(frozen=True)
class DetectedImage:
    """An image and the objects in it.

    Attributes:
        name: path of the image, relative to the folder that all images have in common.
        height: in pixels.
        width: in pixels.
        detections: in the order of the file.
    """

    name: str
    height: int
    width: int
    detections: list[Detection]


def read_detections(file: Path, polygons: bool = False) -> tuple[list[DetectedImage], list[str]]:
    """Read the ``detections.json`` that ``flash-internimage predict`` writes.

    Args:
        polygons: whether to convert masks to polygons.

    Returns:
        The images, and the class names.

    Raises:
        UserError: the file has other contents, frames of a video, which no image file shows, or an image twice; or a mask is
            invalid, or a name has control characters.
    """
    content = read_json(file, "detections")
    require(content, DETECTIONS, file)
    number_of = {category["id"]: k for k, category in enumerate(content["categories"])}
    names = [category["name"] for category in content["categories"]]
    _require_printable(names, file)
    image_names = _image_names(content["images"], file)
    of_image: dict[int, list[Detection]] = {image["id"]: [] for image in content["images"]}
    annotations = content["annotations"]
    for found in annotations:
        if found["image_id"] not in of_image or found["category_id"] not in number_of:
            raise UserError(
                f"{file}: annotation {found['id']} has image {found['image_id']} and category {found['category_id']}, which "
                "the file does not list; detect again"
            )
    if polygons:
        size_of = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        require_valid_masks(
            [found.get("segmentation") for found in annotations],
            [size_of[found["image_id"]] for found in annotations],
            lambda i: f"{file}: annotation {annotations[i]['id']}",
        )
    for found in annotations:
        x, y, width, height = found["bbox"]
        outline = _outline(found.get("segmentation")) if polygons else None
        detection = Detection(number_of[found["category_id"]], (x, y, x + width, y + height), found["score"], outline)
        of_image[found["image_id"]].append(detection)
    images = [
        DetectedImage(name, image["height"], image["width"], of_image[image["id"]])
        for name, image in zip(image_names, content["images"], strict=True)
    ]
    return images, names


def to_yolo(images: Sequence[DetectedImage], names: Sequence[str], scores: bool = False, polygons: bool = False) -> Files:
    """Ultralytics' label files, one per image, and ``data.yaml`` with the class names.

    Args:
        scores: whether a line ends with the score, as Ultralytics' ``save_conf`` writes it; such files are no training data.
        polygons: whether each line is a polygon, that of the box for a detection without an outline. A file with lines of
            both kinds would be misread: as polygons, boxes have two points.
    """
    files = {"data.yaml": yaml.safe_dump({"names": dict(enumerate(names))}, allow_unicode=True)}
    for image in images:
        lines = []
        for found in image.detections:
            x0, y0, x1, y1 = found.box
            if polygons:
                outline = found.polygon or [(x0, y0), (x0, y1), (x1, y1), (x1, y0)]
                numbers = [n for x, y in outline for n in (x / image.width, y / image.height)]
            else:
                numbers = [
                    (x0 + x1) / 2 / image.width,
                    (y0 + y1) / 2 / image.height,
                    (x1 - x0) / image.width,
                    (y1 - y0) / image.height,
                ]
            numbers += [found.score] if scores else []
            lines.append(" ".join([str(found.category), *(f"{number:.6f}" for number in numbers)]) + "\n")
        _add(files, f"labels/{PurePath(image.name).with_suffix('.txt').as_posix()}", "".join(lines), image)
    return files


def to_voc(images: Sequence[DetectedImage], names: Sequence[str]) -> Files:
    """Pascal VOC's files, one per image; pixels are counted from 1, and rounded. A box has at least one of them."""
    files: Files = {}
    for image in images:
        root = ElementTree.Element("annotation")
        _child(root, "filename", PurePath(image.name).name)
        size = _child(root, "size")
        for tag, value in (("width", image.width), ("height", image.height), ("depth", 3)):
            _child(size, tag, value)
        for found in image.detections:
            element = _child(root, "object")
            _child(element, "name", names[found.category])
            _child(element, "score", f"{found.score:.4f}")
            box = _child(element, "bndbox")
            x0, y0, x1, y1 = map(round, found.box)
            xmin, ymin = _clamped(x0 + 1, 1, image.width), _clamped(y0 + 1, 1, image.height)
            xmax, ymax = _clamped(x1, xmin, image.width), _clamped(y1, ymin, image.height)
            for tag, value in (("xmin", xmin), ("ymin", ymin), ("xmax", xmax), ("ymax", ymax)):
                _child(box, tag, value)
        _add(files, f"Annotations/{PurePath(image.name).with_suffix('.xml').as_posix()}", _xml(root), image)
    return files


def _clamped(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


def to_cvat(images: Sequence[DetectedImage], names: Sequence[str]) -> Files:
    """``annotations.xml`` in the format "CVAT for images 1.1", which a task with these images imports."""
    root = ElementTree.Element("annotations")
    _child(root, "version", "1.1")
    for number, image in enumerate(images):
        attributes = {"id": number, "name": image.name, "width": image.width, "height": image.height}
        element = _child(root, "image", **attributes)
        for found in image.detections:
            common = {"label": names[found.category], "source": "auto", "occluded": 0, "z_order": 0}
            if found.polygon is not None:
                _child(element, "polygon", **common, points=";".join(f"{x:.2f},{y:.2f}" for x, y in found.polygon))
            else:
                corners = zip(("xtl", "ytl", "xbr", "ybr"), found.box, strict=True)
                _child(element, "box", **common, **{name: f"{value:.2f}" for name, value in corners})
    return {"annotations.xml": _xml(root)}


def to_label_studio(images: Sequence[DetectedImage], names: Sequence[str], root: str = "", version: str = "") -> Files:
    """Label Studio's ``tasks.json`` with predictions, and ``labeling_config.xml`` with the labels for its project.

    Args:
        root: what stands before the name of an image in its address, such as ``/data/local-files/?d=``; itself already quoted.
        version: name of the model, which Label Studio shows.
    """
    tasks = []
    for image in images:
        results = [_label_studio_result(image, found, names, number) for number, found in enumerate(image.detections)]
        mean = sum(found.score for found in image.detections) / len(image.detections) if image.detections else 0.0
        prediction = {"model_version": version or "flash-internimage", "score": mean, "result": results}
        tasks.append({"data": {"image": root + quote(image.name)}, "predictions": [prediction]})
    view = ElementTree.Element("View")
    _child(view, "Image", name="image", value="$image")
    for tag, name in (("RectangleLabels", "boxes"), ("PolygonLabels", "polygons")):
        labels = _child(view, tag, name=name, toName="image")
        for label in names:
            _child(labels, "Label", value=label)
    return {"tasks.json": json.dumps(tasks, indent=1), "labeling_config.xml": _xml(view)}


def _label_studio_result(image: DetectedImage, found: Detection, names: Sequence[str], number: int) -> dict[str, Any]:
    """One object: coordinates in percent of the sides of the image."""

    def percent(x: float, y: float) -> tuple[float, float]:
        return 100 * x / image.width, 100 * y / image.height

    label = [names[found.category]]
    if found.polygon is not None:
        kind, value = "polygon", {"points": [list(percent(x, y)) for x, y in found.polygon], "polygonlabels": label}
    else:
        (x, y), (x1, y1) = percent(*found.box[:2]), percent(*found.box[2:])
        kind, value = "rectangle", {"x": x, "y": y, "width": x1 - x, "height": y1 - y, "rotation": 0, "rectanglelabels": label}
    return {
        "id": f"{number}",
        "type": f"{kind}labels",
        "from_name": "polygons" if kind == "polygon" else "boxes",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": value,
        "score": found.score,
    }


FORMATS: Mapping[str, Callable[[Sequence[DetectedImage], Sequence[str]], Files]] = {
    "cvat": to_cvat,
    "label-studio": to_label_studio,
    "voc": to_voc,
    "yolo": to_yolo,
}


def _outline(segmentation: Any) -> list[tuple[float, float]] | None:
    """The outline of the largest part of a valid RLE mask; None without a mask, or if it has no area."""
    if not isinstance(segmentation, dict):
        return None
    import cv2  # detectron2's visualizer needs it too

    if isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
    x0, y0, width, height = map(int, mask_util.toBbox(segmentation))
    part = mask_util.decode(segmentation)[y0 : y0 + height, x0 : x0 + width]
    # OpenCV connects the centers of border pixels. In a mask of twice the size, each pixel of the border lies on one side
    # of an edge between pixels of the mask: halved and rounded up, its index is that of the edge.
    contours, _ = cv2.findContours(part.repeat(2, axis=0).repeat(2, axis=1), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    edges = [(contour[:, 0] + 1) // 2 for contour in contours]
    largest = max(edges, key=cv2.contourArea, default=None)
    if largest is None:
        return None
    return [(float(x0 + x), float(y0 + y)) for (x, y), _ in groupby(largest.tolist())]


def _image_names(images: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    """Paths of the images relative to their common folder; raise an error if the formats cannot refer to images by them."""
    if any("frame" in image for image in images):
        raise UserError(
            f"{file}: has frames of a video, which these formats cannot refer to; extract them as images, and detect again"
        )
    relative = _relative([image["file_name"] for image in images])
    _require_printable(relative, file)
    outside = next((name for name in relative if ".." in PurePath(name).parts), None)
    if outside is not None:
        raise UserError(f"{file}: the image {outside} has .. in its path; give the images without it, and detect again")
    twice = next((name for name, count in Counter(relative).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{file}: lists the image {twice} twice; give each image once, and detect again")
    return relative


def _require_printable(names: Sequence[str], file: Path) -> None:
    unusable = next((name for name in names if _CONTROL.search(name)), None)
    if unusable is not None:
        raise UserError(f"{file}: the name {unusable!r} has a control character, which other tools do not read; rename it")


def _relative(names: Sequence[str]) -> list[str]:
    """Paths relative to the folder that all of them have in common."""
    if not names:
        return []
    parents = [PurePath(name).parent.parts for name in names]
    common = len(list(_common_prefix(parents)))
    return [PurePath(*PurePath(name).parts[common:]).as_posix() for name in names]


def _common_prefix(paths: Sequence[Sequence[str]]) -> Iterator[str]:
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            return
        yield parts[0]


def _add(files: Files, path: str, text: str, image: DetectedImage) -> None:
    if path in files:
        raise UserError(
            f"{image.name}: another image has the same name but for its suffix, so {path} would belong to both; rename one"
        )
    files[path] = text


def _child(parent: ElementTree.Element, tag: str, text: object = None, **attributes: object) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})
    if text is not None:
        element.text = str(text)
    return element


def _xml(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
