"""Conversion of datasets in other formats to the contents of an annotation file in COCO format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_internimage.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of the files that are taken for images, in lower case."""

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Usual names of folders and keys for each split."""

WHOLE = "all"
"""Name of the only split of a dataset without splits."""


@dataclass
class LabeledObject:
    """An object of an image.

    Attributes:
        category: category id, or class name in formats without class numbers.
        box: XYWH in absolute pixels.
        place: ``file:line`` of the label, for messages.
        polygons: the parts of its mask, each x and y in absolute pixels, alternating; empty for an object without mask.
    """

    category: int | str
    box: list[float]
    place: str
    polygons: list[list[float]] = field(default_factory=list)


@dataclass
class LabeledImage:
    """An image file and its objects; ``size`` is ``(height, width)`` in pixels."""

    path: Path
    size: tuple[int, int]
    objects: list[LabeledObject] = field(default_factory=list)


@dataclass
class Contents:
    """Contents of an annotation file in COCO format, and the folder to which its file names are relative."""

    content: dict[str, Any]
    image_root: str


class Source(ABC):
    """A dataset in some format: a file or folder with one or several splits.

    Attributes:
        description: subject of messages, for example ``YOLO dataset mugs/data.yaml``.
    """

    description: str

    @property
    @abstractmethod
    def splits(self) -> Sequence[str]:
        """Available splits, of ``train``, ``val``, ``test`` and ``trainval``, or ``WHOLE`` alone."""

    @abstractmethod
    def read(self, split: str) -> Contents:
        """Read one split.

        Raises:
            UserError: a file is missing or malformed.
        """

    def share_classes(self, other: Source) -> None:  # noqa: B027 (optional)
        """Use the same classes as another dataset, if the format has no class list."""

    def files(self, split: str) -> tuple[str, str] | None:
        """Return annotation file and image folder of a split that needs no conversion; None for other formats."""
        return None


def split_of(name: str) -> str | None:
    """Return the split that a folder or a key names; None if it names none."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the subfolders that are named like splits, in the order train, val, test."""
    found = {split_of(path.name): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return {split: found[split] for split in SPLIT_NAMES if split in found}


def find_files(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder with one of some suffixes (in lower case), sorted, without hidden files."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield Path(parent, name)


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file cannot be read, or has another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{file}: expected a readable text file, got: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: expected text in UTF-8, got other bytes ({error}); save it again as UTF-8") from error


def to_contents(
    images: Sequence[LabeledImage], categories: Mapping[int, str], root: Path, description: str, ids: Mapping[str, int] | None
) -> Contents:
    """Convert labeled images to the contents of an annotation file in COCO format.

    Images and annotations are numbered from 1, in the order of the paths relative to the image folder. Annotations have a key
    ``place``, by which the validation names them.

    Args:
        categories: name of each category id.
        root: image folder, if all images are inside it; otherwise it is their nearest common parent.
        description: what the images were converted from.
        ids: category id of each class name, if objects have names.
    """
    paths = [os.path.normpath(image.path) for image in images]
    folder = os.path.normpath(root)
    if not all(os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), "")) for path in paths):
        folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    by_name = {os.path.relpath(path, folder).replace(os.sep, "/"): image for path, image in zip(paths, images, strict=True)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, image) in enumerate(sorted(by_name.items()), start=1):
        height, width = image.size
        entries.append({"id": number, "file_name": name, "height": height, "width": width})
        for labeled in image.objects:
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": labeled.category if ids is None else ids[str(labeled.category)],
                "bbox": labeled.box,
                "area": labeled.box[2] * labeled.box[3],
                "iscrowd": 0,
                "place": labeled.place,
            }
            if labeled.polygons:
                annotation["segmentation"] = labeled.polygons
                annotation["area"] = sum(map(polygon_area, labeled.polygons))
            annotations.append(annotation)
    content = {
        "info": {"description": description},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in categories.items()],
    }
    return Contents(content, folder)


def polygon_area(polygon: Sequence[float]) -> float:
    """Area of a polygon without self-intersections, in square pixels."""
    x, y = polygon[0::2], polygon[1::2]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2
