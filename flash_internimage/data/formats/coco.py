"""Folders with annotation files in COCO format, as Roboflow, CVAT, Label Studio and COCO itself lay them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flash_internimage.data.check import read_json
from flash_internimage.errors import UserError

from .contents import WHOLE, Contents, Source, split_folders, split_of


class CocoFolder(Source):
    """A folder with annotation files in COCO format.

    Args:
        root: the folder, for messages.
        annotation_files: split -> annotation file.
    """

    def __init__(self, root: Path, annotation_files: Mapping[str, Path]) -> None:
        self.description = f"COCO dataset {root}"
        self.root = root
        self.annotation_files = dict(annotation_files)
        self._image_folders: dict[str, Path] = {}  # of the splits that were read

    @property
    def splits(self) -> Sequence[str]:
        return list(self.annotation_files)

    def files(self, split: str) -> tuple[str, str]:
        if split not in self._image_folders:
            self.read(split)
        return str(self.annotation_files[split]), str(self._image_folders[split])

    def read(self, split: str) -> Contents:
        content = read_json(str(self.annotation_files[split]))
        folder = self._image_folders[split] = self._image_folder(content, split)
        return Contents(content, str(folder))

    def _image_folder(self, content: Mapping, split: str) -> Path:
        """Return the folder to which the file names of a split are relative: the first that has its first image."""
        file = self.annotation_files[split]
        images = content.get("images")
        first = images[0] if isinstance(images, list) and images else {}
        name = first.get("file_name") if isinstance(first, dict) else None
        if not isinstance(name, str):
            return file.parent  # the validation of the file reports it
        stem = file.stem.removeprefix("instances_")
        parents = (file.parent, self.root)
        folders = [
            *parents,
            *(
                parent / folder
                for parent in parents
                for folder in ("images", "data", stem, f"images/{stem}", f"images/{split}")
            ),
        ]
        found = next((folder for folder in folders if (folder / name).is_file()), None)
        if found is None:
            tried = ", ".join(dict.fromkeys(str(folder) for folder in folders if folder.is_dir()))
            raise UserError(
                f"annotation file {file}: expected its first image, {name}, in one of {tried}, got none; add the images, or "
                "name their folder as data.train.images and data.test.images"
            )
        return found


def find_coco(root: Path) -> CocoFolder | None:
    """Find the annotation files in COCO format of a folder; None if there are none.

    Raises:
        UserError: a split has several.
    """
    by_split: dict[str, list[Path]] = {}
    for split, folder in split_folders(root).items():
        by_split[split] = _annotation_files(folder)
    if not any(by_split.values()):
        for file in [*_annotation_files(root), *_annotation_files(root / "annotations")]:
            by_split.setdefault(_split_in_name(file) or WHOLE, []).append(file)
    found = {split: files for split, files in by_split.items() if files}
    for split, files in found.items():
        if len(files) > 1:
            names = ", ".join(map(str, files))
            raise UserError(
                f"COCO dataset {root}: expected one annotation file of split {split}, got {names}; give one of them as "
                "data.train.json, and its images as data.train.images"
            )
    if len(found) > 1:
        found.pop(WHOLE, None)
    return CocoFolder(root, {split: files[0] for split, files in found.items()}) if found else None


def _split_in_name(file: Path) -> str | None:
    """Return the split that a file name ends with, as ``instances_train2017.json`` does."""
    words = file.stem.replace("-", "_").split("_")
    return next((split for word in words if (split := split_of(word.rstrip("0123456789"))) is not None), None)


def _annotation_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder that look like annotation files with objects."""
    return [] if not folder.is_dir() else [file for file in sorted(folder.glob("*.json")) if _looks_like_coco(file)]


def _looks_like_coco(file: Path) -> bool:
    """Return whether the text of a file mentions the lists of an annotation file; parsing it could be slow, or fail."""
    if "captions" in file.name or "keypoints" in file.name:
        return False
    try:
        content = file.read_bytes()
    except OSError:
        return False
    return b'"images"' in content and b'"annotations"' in content
