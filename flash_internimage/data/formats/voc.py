"""Pascal VOC datasets: one XML file per image, with boxes in absolute pixels.

Three layouts are read: ``Annotations``, ``JPEGImages`` and ``ImageSets/Main`` of Pascal VOC, which CVAT also writes; XML files
beside the images in a folder for each split, which Roboflow writes; and ``Annotations`` beside ``images``, which Label Studio
writes.

As in detectron2, the sides of a box are pixels, counted from 1 and inclusive: ``xmin=1, xmax=10`` covers ten pixels.
Objects that are marked as difficult are used like others. Polygons are read, as Roboflow writes them; the masks in
``SegmentationObject`` are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

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
    split_folders,
    to_contents,
)

_ANNOTATIONS = "Annotations"
_IMAGE_FOLDERS = ("JPEGImages", "images")
_SETS = ("train", "val", "trainval", "test")
_FIRST_PIXEL = 1


@dataclass
class Element:
    """An XML element: its tag, text and line, and the elements in it."""

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        return [child for child in self.children if child.tag == tag]

    def find(self, tag: str) -> Element | None:
        return next(iter(self.all(tag)), None)

    def text_of(self, tag: str) -> str:
        found = self.find(tag)
        return "" if found is None else found.text.strip()


def read_xml(file: Path) -> Element:
    """Parse an XML file, keeping the line numbers of its elements.

    Raises:
        UserError: the file cannot be read or is malformed, or it defines entities.
    """
    document = Element("", 0)
    stack = [document]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def start(tag: str, _: dict[str, str]) -> None:
        stack.append(Element(tag, parser.CurrentLineNumber))
        stack[-2].children.append(stack[-1])

    def text(characters: str) -> None:
        stack[-1].text += characters

    def refuse(*_: object) -> None:  # entities can expand to gigabytes
        raise UserError(f"{file}:{parser.CurrentLineNumber}: expected XML without entities, got a definition; remove it")

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(file.read_bytes(), True)
    except OSError as error:
        raise UserError(f"{file}: expected a readable XML file, got: {error.strerror}; check the path") from error
    except expat.ExpatError as error:
        problem = expat.ErrorString(error.code)
        raise UserError(f"{file}:{error.lineno}: expected XML, got: {problem}; correct or replace the file") from None
    except (ValueError, LookupError) as error:  # of an encoding that expat does not know
        raise UserError(f"{file}: expected XML in UTF-8, got: {error}; save it in UTF-8") from None
    return document.children[0]


class VocDataset(Source):
    """A Pascal VOC dataset.

    Classes are numbered from 1 in alphabetical order of their names, over all splits.

    Args:
        root: folder of the dataset, for messages.
        annotations: split -> XML files.
    """

    def __init__(self, root: Path, annotations: Mapping[str, Sequence[Path]]) -> None:
        self.description = f"VOC dataset {root}"
        self.root = root
        self.annotations = {split: list(files) for split, files in annotations.items() if files}
        self._images: dict[Path, LabeledImage] = {}
        self._names: list[str] | None = None

    @property
    def splits(self) -> list[str]:
        return list(self.annotations)

    @property
    def names(self) -> list[str]:
        """Class names, of all splits."""
        if self._names is None:
            images = [self._image(file) for files in self.annotations.values() for file in files]
            self._names = sorted({str(labeled.category) for image in images for labeled in image.objects})
        return self._names

    def share_classes(self, other: Source) -> None:
        if isinstance(other, VocDataset):
            self._names = other._names = sorted({*self.names, *other.names})

    def read(self, split: str) -> Contents:
        images = [self._image(file) for file in self.annotations[split]]
        ids = {name: number for number, name in enumerate(self.names, start=1)}
        categories = {number: name for name, number in ids.items()}
        return to_contents(images, categories, self.root, f"{self.description}, split {split}", ids)

    def _image(self, file: Path) -> LabeledImage:
        """Return the image of an XML file with its objects; each file is parsed once."""
        if file not in self._images:
            tree = read_xml(file)
            if tree.tag != "annotation":
                raise UserError(
                    f"{file}:{tree.line}: expected an <annotation> of Pascal VOC, got <{tree.tag}>; remove the file"
                )
            path = self._image_file(file, tree)
            objects = [_labeled_object(element, file) for element in tree.all("object")]
            self._images[file] = LabeledImage(path, _size(tree, file, path), objects)
        return self._images[file]

    def _image_file(self, file: Path, tree: Element) -> Path:
        """Find the image of an XML file by the name in it, or by the name of the XML file."""
        folders = [*(parent / name for parent in (file.parent.parent, self.root) for name in _IMAGE_FOLDERS), file.parent]
        below = file.parent.relative_to(self.root / _ANNOTATIONS) if self.root / _ANNOTATIONS in file.parents else Path()
        folders = list(dict.fromkeys([*(folder / below for folder in folders), *folders]))
        given = tree.text_of("filename").replace("\\", "/")
        for name in filter(None, [given, given.rsplit("/", 1)[-1]]):
            for folder in folders:
                if (folder / name).is_file():
                    return folder / name
        for folder in folders:
            for suffix in [*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)]:
                if (folder / f"{file.stem}{suffix}").is_file():
                    return folder / f"{file.stem}{suffix}"
        existing = ", ".join(str(folder) for folder in folders if folder.is_dir())
        raise UserError(
            f"{file}: expected its image {given or file.stem} in {existing}, got none; add the image, or remove the file"
        )


def _size(tree: Element, file: Path, image: Path) -> tuple[int, int]:
    """Return ``(height, width)`` of an image as annotated, or of the file if it is not annotated."""
    size = tree.find("size")
    width, height = ("", "") if size is None else (size.text_of("width"), size.text_of("height"))
    if width in ("", "0") or height in ("", "0"):
        try:
            return read_size(image)
        except OSError as error:
            raise UserError(f"{image}: expected a readable image, got: {error.strerror}; replace the file") from error
    if not (width.isascii() and width.isdecimal() and height.isascii() and height.isdecimal()):
        line = 0 if size is None else size.line
        raise UserError(
            f"{file}:{line}: expected <width> and <height> to be whole numbers of pixels, got {width!r} and {height!r}; "
            "correct them, or remove <size>"
        )
    return int(height), int(width)


def _labeled_object(element: Element, file: Path) -> LabeledObject:
    place = f"{file}:{element.line}"
    name = element.text_of("name")
    if not name:
        raise UserError(f"{place}: expected the object's class in <name>, got none; add it")
    box = element.find("bndbox")
    if box is None:
        raise UserError(f"{place}: expected the object's <bndbox>, got none; add it")
    x0, y0, x1, y1 = (_number(box, tag, file) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if x1 < x0 or y1 < y0:
        raise UserError(
            f"{file}:{box.line}: expected xmin <= xmax and ymin <= ymax, got x {x0:g} to {x1:g} and y {y0:g} to {y1:g}; "
            "correct the box"
        )
    left, top = max(x0 - _FIRST_PIXEL, 0.0), max(y0 - _FIRST_PIXEL, 0.0)
    return LabeledObject(name, [left, top, x1 - left, y1 - top], place, _polygons(element, file))


def _polygons(element: Element, file: Path) -> list[list[float]]:
    """Return the polygons of an object with three points or more: ``<x1>``, ``<y1>``, ``<x2>``, ..."""
    polygons = []
    for polygon in element.all("polygon"):
        count = sum(child.tag.startswith("x") for child in polygon.children)
        tags = (f"{axis}{number}" for number in range(1, count + 1) for axis in "xy")
        points = [_number(polygon, tag, file) - _FIRST_PIXEL for tag in tags]
        if len(points) >= 6:
            polygons.append(points)
    return polygons


def _number(element: Element, tag: str, file: Path) -> float:
    found = element.find(tag)
    text = "" if found is None else found.text.strip()
    try:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
    except ValueError:
        line = element.line if found is None else found.line
        raise UserError(f"{file}:{line}: expected a number of pixels in <{tag}>, got {text!r}; correct it") from None
    return value


def read_voc(folder: str | Path) -> VocDataset:
    """Find the XML files of a Pascal VOC dataset and its splits.

    The splits are subfolders named ``train``, ``valid`` and ``test``, or the lists in ``ImageSets/Main``. Images without an XML
    file are not annotated and not used.

    Raises:
        UserError: the folder does not exist, or holds no XML files.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"VOC dataset {root}: expected an existing folder, got none; check the path")
    by_folder = {split: list(find_files(path, (".xml",))) for split, path in split_folders(root).items()}
    if any(by_folder.values()):
        return VocDataset(root, by_folder)
    inside = root / _ANNOTATIONS
    files = list(find_files(inside if inside.is_dir() else root, (".xml",)))
    if not files:
        raise UserError(
            f"VOC dataset {root}: expected XML files in {_ANNOTATIONS}, in the folder itself or in train and valid, got none; "
            "check the path"
        )
    listed = {name: _listed(root / "ImageSets" / "Main" / f"{name}.txt", files, inside) for name in _SETS}
    found = {name: of_set for name, of_set in listed.items() if of_set}
    return VocDataset(root, found or {WHOLE: files})


def _listed(list_file: Path, files: Sequence[Path], annotations: Path) -> list[Path]:
    """Return the XML files of the images that a list names; empty if there is no such list."""
    try:
        lines = read_text(list_file).splitlines()
    except FileNotFoundError:
        return []
    known = {file.relative_to(annotations).with_suffix("").as_posix(): file for file in files if annotations in file.parents}
    found = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if name and name not in known:
            raise UserError(
                f"{list_file}:{number}: expected the name of a file in {annotations}, without suffix, got {name!r}; add "
                f"{name}.xml, or remove the line"
            )
        if name:
            found.append(known[name])
    return found
