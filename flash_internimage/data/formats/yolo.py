"""YOLO datasets: one text file of labels per image, with coordinates relative to the size of the image.

Three layouts are read: ``data.yaml`` of Ultralytics, which Roboflow and CVAT also write; ``obj.data`` of Darknet, which CVAT
writes as "YOLO 1.1"; and ``classes.txt`` beside ``images`` and ``labels``, which Label Studio writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from flash_internimage.errors import UserError
from flash_internimage.images import read_size

from .contents import (
    IMAGE_SUFFIXES,
    WHOLE,
    Contents,
    LabeledImage,
    LabeledObject,
    Source,
    find_files,
    read_text,
    split_of,
    to_contents,
)

_TOLERANCE = 0.01  # by which a relative coordinate may exceed 0..1: rounding errors, as in Ultralytics
_WORKERS = 8  # threads that read the headers of images, which is slow on network storage
_FORMS = (
    'expected "class x_center y_center width height" (a box) or "class x1 y1 x2 y2 x3 y3 ..." (a polygon), with coordinates '
    "from 0 to 1 relative to the size of the image"
)


class YoloDataset(Source):
    """A YOLO dataset.

    Args:
        file: file that describes the dataset, for messages.
        root: folder to which relative paths refer.
        names: class names; the class number is the category id.
        images: split -> folders of images, text files that list images, or image files.
        num_keypoint_values: numbers per object after its box, for pose datasets; they are ignored.
    """

    def __init__(
        self, file: Path, root: Path, names: Sequence[str], images: Mapping[str, Sequence[Path]], num_keypoint_values: int = 0
    ) -> None:
        self.description = f"YOLO dataset {file}"
        self.root = root
        self.names = list(names)
        self.images = dict(images)
        self.num_keypoint_values = num_keypoint_values

    @property
    def splits(self) -> list[str]:
        return list(self.images)

    def read(self, split: str) -> Contents:
        paths = [path for entry in self.images[split] for path in self._list(entry, split)]
        if not paths:
            places = ", ".join(map(str, self.images[split]))
            raise UserError(f"{self.description}: expected images of split {split} in {places}, got none; check the path")
        labels = [find_labels(path) for path in paths]
        if not any(labels):
            raise UserError(
                f"{self.description}: expected a label file for at least one image of split {split}, "
                f"got none; the labels of {paths[0]} belong into {label_file(paths[0])}"
            )
        with ThreadPoolExecutor(_WORKERS) as pool:
            sizes = list(pool.map(self._size, paths))
        images = [
            LabeledImage(path, size, [] if file is None else self._objects(file, size))
            for path, size, file in zip(paths, sizes, labels, strict=True)
        ]
        description = f"{self.description}, split {split}"
        return to_contents(images, dict(enumerate(self.names)), self.root, description, ids=None)

    def _list(self, entry: Path, split: str) -> list[Path]:
        """Return the images of a folder, or of a text file that lists images."""
        if entry.is_dir():
            return list(find_files(entry, IMAGE_SUFFIXES))
        if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            return [entry]
        try:
            lines = read_text(entry).splitlines()
        except FileNotFoundError:
            raise UserError(
                f"{self.description}: expected a folder of images, or a text file that lists images, for split {split}, got "
                f"{entry}, which does not exist; correct the path in the file"
            ) from None
        listed = []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                found = _first_existing(_places_of_listed(Path(line.strip()), entry.parent, self.root))
                if found is None:
                    raise UserError(
                        f"{entry}:{number}: expected the path of an image, relative to {entry.parent} or {self.root}, got "
                        f"{line.strip()!r}, which does not exist; correct the path"
                    )
                listed.append(found)
        return listed

    def _size(self, path: Path) -> tuple[int, int]:
        try:
            return read_size(path)
        except OSError as error:
            raise UserError(f"{path}: expected a readable image, got: {error.strerror}; replace the file") from error

    def _objects(self, file: Path, size: tuple[int, int]) -> list[LabeledObject]:
        objects = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if line.strip():
                place = f"{file}:{number}"
                try:
                    objects.append(self._object(line, size, place))
                except ValueError as error:
                    raise UserError(f"{place}: {error}") from None
        return objects

    def _object(self, line: str, size: tuple[int, int], place: str) -> LabeledObject:
        """Parse a line.

        Raises:
            ValueError: the line is malformed; the message says what was expected.
        """
        try:
            class_, *numbers = map(float, line.split())
        except ValueError:
            raise ValueError(f"{_FORMS}, got {line.strip()[:80]!r}; correct the line") from None
        if class_ not in range(len(self.names)):
            last = len(self.names) - 1
            raise ValueError(
                f"expected a class number from 0 to {last} ({self.names[last]}), got {line.split()[0]}; correct it, or add "
                "the class to the names of the dataset"
            )
        is_pose = self.num_keypoint_values > 0
        if len(numbers) != 4 + self.num_keypoint_values and (is_pose or len(numbers) < 6 or len(numbers) % 2):
            expected = f"expected a box and {self.num_keypoint_values} numbers of its keypoints" if is_pose else _FORMS
            confidence = "; a sixth number would be a confidence, which labels do not have" if len(numbers) == 5 else ""
            raise ValueError(f"{expected}, got {1 + len(numbers)} numbers{confidence or '; correct the line'}")
        relative = numbers[:4] if is_pose else numbers
        wrong = next((value for value in relative if not -_TOLERANCE <= value <= 1 + _TOLERANCE), None)
        if wrong is not None:
            fix = "correct the line" if not math.isfinite(wrong) or wrong < 0 else "divide pixels by the size of the image"
            raise ValueError(f"expected coordinates from 0 to 1, relative to the size of the image, got {wrong:g}; {fix}")
        height, width = size
        if len(relative) == 4:
            x, y, w, h = relative
            return LabeledObject(int(class_), [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height], place)
        xs = [min(max(x, 0.0), 1.0) * width for x in relative[0::2]]
        ys = [min(max(y, 0.0), 1.0) * height for y in relative[1::2]]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return LabeledObject(int(class_), box, place, [[value for point in zip(xs, ys, strict=True) for value in point]])


def label_file(image: Path) -> Path:
    """Return where the labels of an image belong: ``labels`` in place of the last folder ``images``, or beside the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def find_labels(image: Path) -> Path | None:
    """Return the label file of an image, where it belongs or beside the image; None if there is none."""
    return _first_existing([label_file(image), image.with_suffix(".txt")])


def read_data_yaml(file: str | Path) -> YoloDataset:
    """Read ``data.yaml`` of Ultralytics: ``names``, ``train``, ``val``, ``test`` and, optionally, ``path`` and ``kpt_shape``.

    Raises:
        UserError: the file does not exist or is malformed.
    """
    file = Path(file)
    try:
        content = yaml.safe_load(read_text(file))
    except FileNotFoundError:
        raise UserError(f"YOLO dataset {file}: expected an existing file, data.yaml, got none; check the path") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark is not None else str(file)
        raise UserError(f"{place}: expected YAML, got: {getattr(error, 'problem', error)}; correct the line") from None
    if not isinstance(content, dict):
        raise UserError(f"YOLO dataset {file}: expected keys names, train and val, got {content!r}; write them into the file")
    names = _names_of_yaml(content, file)
    root = _root_of_yaml(content, file)
    images = {}
    for key, value in content.items():
        split = split_of(str(key))
        if split is not None and value:
            entries = [value] if isinstance(value, str) else value
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise UserError(
                    f"YOLO dataset {file}: expected {key} to be a path or a list of paths, got {value!r}; correct it"
                )
            images[split] = [_resolved(entry, root, file.parent) for entry in entries]
    if not images:
        raise UserError(f"YOLO dataset {file}: expected train and val, folders of images, got neither; add them to the file")
    keypoints = content.get("kpt_shape")
    if keypoints is not None and not (
        isinstance(keypoints, list) and len(keypoints) == 2 and all(type(number) is int for number in keypoints)
    ):
        raise UserError(
            f"YOLO dataset {file}: expected kpt_shape to be [number of keypoints, 2 or 3], got {keypoints!r}; correct it"
        )
    return YoloDataset(file, root, names, images, math.prod(keypoints) if keypoints else 0)


def _names_of_yaml(content: Mapping[str, Any], file: Path) -> list[str]:
    names, number = content.get("names"), content.get("nc")
    if names is None and type(number) is int and number > 0:
        names = [f"class {i}" for i in range(number)]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(
                f"YOLO dataset {file}: expected names to be numbered 0 to {len(names) - 1}, got {list(names)}; "
                "give each class number one name"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"YOLO dataset {file}: expected names, the list of the classes, got {names!r}; add it to the file")
    if number is not None and number != len(names):
        raise UserError(f"YOLO dataset {file}: expected nc to be the number of names, {len(names)}, got {number!r}; correct it")
    return [str(name) for name in names]


def _root_of_yaml(content: Mapping[str, Any], file: Path) -> Path:
    given = content.get("path")
    if not isinstance(given, str):
        return file.parent
    # Ultralytics takes a relative path from its own folder of datasets, which exists on the machine of the author only.
    return _first_existing([file.parent / given, Path(given)]) or file.parent


def _resolved(entry: str, root: Path, beside: Path) -> Path:
    """Return the path of an entry of ``data.yaml``; Roboflow writes ``../train/images`` for ``train/images``."""
    inside = entry
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    candidates = [folder / path for path in (entry, inside) for folder in (root, beside)]
    return _first_existing(candidates) or candidates[0]


def _places_of_listed(path: Path, beside: Path, root: Path) -> list[Path]:
    """Return where a listed image may be; CVAT writes ``data/`` for the folder of the dataset."""
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("data",) else path
    return [folder / name for name in dict.fromkeys([path, inside]) for folder in dict.fromkeys([beside, root])]


def _first_existing(candidates: Sequence[Path]) -> Path | None:
    return next((path for path in candidates if path.exists()), None)


def read_darknet(folder: Path) -> YoloDataset:
    """Read ``obj.data`` of Darknet, with ``names`` and the lists ``train`` and ``valid``.

    Raises:
        UserError: a file is missing or malformed.
    """
    file = folder / "obj.data"
    settings = dict(part for line in read_text(file).splitlines() if len(part := [p.strip() for p in line.split("=", 1)]) == 2)
    found = {
        key: _first_existing(_places_of_listed(Path(value), folder, folder))
        for key, value in settings.items()
        if value and (key == "names" or split_of(key))
    }
    missing = [key for key in ("names", *(key for key in found if key != "names")) if found.get(key) is None]
    if missing or len(found) < 2:
        raise UserError(
            f"YOLO dataset {file}: expected names, train and valid to be existing files, got "
            f"{', '.join(f'{key} = {settings.get(key)}' for key in missing) or 'no list of images'}; correct the paths"
        )
    images = {str(split_of(key)): [path] for key, path in found.items() if key != "names" and path is not None}
    return YoloDataset(file, folder, _listed_names(Path(str(found["names"]))), images)


def read_classes_txt(folder: Path) -> YoloDataset:
    """Read ``classes.txt``, ``images`` and ``labels`` of a folder, which have no splits.

    Raises:
        UserError: a file is missing.
    """
    file = folder / "classes.txt"
    return YoloDataset(file, folder, _listed_names(file), {WHOLE: [folder / "images"]})


def _listed_names(file: Path) -> list[str]:
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{file}: expected one class name per line, got none; write them into the file")
    return names
