"""Datasets that a config names in ``data``, in any format, as annotation files in COCO format with image folders.

Datasets in other formats are converted when a run starts: to ``dataset/train.json`` and ``dataset/test.json`` in its output
folder. The images are not copied.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically
from flash_internimage.plurals import counted

from .check import check_contents, read_json, require_sound
from .formats import (
    SPLIT_FILE,
    WHOLE,
    Contents,
    Source,
    draw_validation,
    hold_out,
    read_data_yaml,
    read_voc,
    recognize,
    record_validation,
    recorded_validation,
)
from .formats.contents import split_of

logger = logging.getLogger(__name__)

FOLDER = "dataset"
"""Folder of converted annotation files, inside the output folder of a run."""

_CANDIDATES = {"train": ("train", "trainval", WHOLE), "test": ("val", "test", WHOLE)}  # splits for training, for evaluation


class Dataset(NamedTuple):
    """An annotation file in COCO format, and the folder of its images."""

    annotation_file: str
    image_root: str


class AnnotationFile(Source):
    """An annotation file in COCO format with its image folder."""

    def __init__(self, annotation_file: str, image_root: str) -> None:
        self.description = f"annotation file {annotation_file}"
        self.dataset = Dataset(annotation_file, image_root)

    @property
    def splits(self) -> Sequence[str]:
        return [WHOLE]

    def files(self, split: str) -> tuple[str, str]:
        return self.dataset

    def read(self, split: str) -> Contents:
        return Contents(read_json(self.dataset.annotation_file), self.dataset.image_root)


def given_datasets(cfg: DictConfig, parts: Collection[str] = ("train", "test")) -> dict[str, Dataset | None]:
    """Return the training and the test dataset that ``cfg.data`` names; convert them if necessary.

    One process on each machine converts the datasets. ``cfg.data.val_split`` is set if a validation split is held out.

    Args:
        cfg: a whole config.
        parts: which datasets to convert. Those that need no conversion are always returned.

    Returns:
        ``train`` and ``test``; None for one that is not given or not requested.

    Raises:
        UserError: the keys of ``cfg.data`` contradict each other, or a dataset cannot be read.
    """
    is_converter = comm.get_local_rank() == 0
    found = _Given(cfg, parts).datasets() if is_converter else None
    if comm.get_world_size() > 1:
        by_process = comm.all_gather((found, _value(cfg, "val_split")))
        found, split_file = by_process[comm.get_rank() - comm.get_local_rank()]
        if split_file is not None:
            OmegaConf.update(cfg, "data.val_split", split_file)
    assert found is not None
    return found


def source_of(key: str, json_file: Any, images: Any, yolo: Any, voc: Any, root: Any = None) -> Source | None:
    """Return the dataset that one of several settings names; None if none is set.

    Args:
        key: prefix of the settings, for messages, such as ``data.train.``.

    Raises:
        UserError: several are set, or the annotation file or its image folder is missing.
    """
    given = {"json": json_file, "yolo": yolo, "voc": voc, "root": root}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{key}{named[0]} and {key}{named[1]} are given; expected one dataset, so remove one of them")
    if (json_file is None) != (images is None):
        missing, present = ("json", "images") if json_file is None else ("images", "json")
        raise UserError(
            f"{key}{present} is given, but {key}{missing} is not; "
            "both are needed: an annotation file in COCO format, and the folder of its images"
        )
    if json_file is not None:
        return AnnotationFile(str(json_file), str(images))
    if yolo is not None:
        return read_data_yaml(str(yolo))
    if voc is not None:
        return read_voc(str(voc))
    return None if root is None else recognize(str(root))


def choose_split(source: Source, part: str, asked: str | None, key: str, is_shared: bool = False) -> str | None:
    """Return the split of a dataset to train or evaluate on; None if it has none.

    Args:
        part: ``train`` or ``test``.
        asked: the requested split; None for the default.
        key: name of that setting, for messages.
        is_shared: whether the dataset is also trained on, so that all of it cannot be the test data.

    Raises:
        UserError: the dataset does not have the requested split.
    """
    if asked is not None:
        name = split_of(str(asked)) or str(asked)
        if name not in source.splits:
            raise UserError(f"{key}: expected a split of {source.description} ({', '.join(source.splits)}), got {asked!r}")
        return name
    return next((n for n in _CANDIDATES[part] if n in source.splits and not (is_shared and n == WHOLE)), None)


def _value(cfg: DictConfig, key: str) -> Any:
    return OmegaConf.select(cfg, f"data.{key}", default=None)


class _Given:
    """The settings of ``cfg.data``, and the datasets that they name."""

    def __init__(self, cfg: DictConfig, parts: Collection[str]) -> None:
        self.cfg = cfg
        self.parts = parts
        own = {part: self._own(part) for part in ("train", "test")}
        root = None
        if None in own.values() and _value(cfg, "root") is not None:
            root = recognize(str(_value(cfg, "root")))
            logger.info("%s: splits %s", root.description, ", ".join(root.splits))
        train = own["train"] or root
        test = own["test"] or root
        if test is None and not isinstance(train, AnnotationFile):
            test = train  # data.yaml, or the lists of Pascal VOC, name both splits
        self.sources = {"train": train, "test": test}
        self.is_shared = train is test
        if train is not None and test is not None and not self.is_shared:
            train.share_classes(test)
        self.fraction = _value(cfg, "val_fraction")
        if self.fraction is not None and (train is None or own["test"] is not None):
            problem = "data.test is given too" if own["test"] is not None else "no training data is given"
            raise UserError(
                f"data.val_fraction: expected training data without test data, to hold out a part of it, but {problem}; "
                "remove data.val_fraction, or give only data.train or data.root"
            )

    def _own(self, part: str) -> Source | None:
        json_file, images, yolo, voc = (_value(self.cfg, f"{part}.{name}") for name in ("json", "images", "yolo", "voc"))
        return source_of(f"data.{part}.", json_file, images, yolo, voc)

    def datasets(self) -> dict[str, Dataset | None]:
        if self.fraction is not None:
            train, test = self._held_out()
            return {"train": train, "test": test}
        return {part: self._dataset(part) for part in ("train", "test")}

    def _split(self, part: str) -> tuple[Source, str] | None:
        source = self.sources[part]
        if source is None:
            return None
        key = f"data.{part}.split"
        split = choose_split(source, part, _value(self.cfg, f"{part}.split"), key, part == "test" and self.is_shared)
        if split is None and not (part == "test" and self.is_shared):
            raise UserError(
                f"{source.description}: expected a split for {'training' if part == 'train' else 'evaluation'}, got "
                f"{', '.join(source.splits)}; choose one by {key}"
            )
        return None if split is None else (source, split)

    def _dataset(self, part: str) -> Dataset | None:
        chosen = self._split(part)
        if chosen is None or not (part in self.parts or isinstance(chosen[0], AnnotationFile)):
            return None
        source, split = chosen
        files = source.files(split)
        return self._write(source.read(split), part) if files is None else Dataset(*files)

    def _held_out(self) -> tuple[Dataset, Dataset]:
        """Hold out a part of the training data for evaluation: the images that the run has recorded, if it has."""
        chosen = self._split("train")
        assert chosen is not None
        source, split = chosen
        if "val" in source.splits:
            raise UserError(
                f"data.val_fraction: expected data without a validation split, but {source.description} has one; remove "
                "data.val_fraction to evaluate on it"
            )
        files = source.files(split)
        subject = source.description if files is None else f"annotation file {files[0]}"
        contents = source.read(split)
        require_sound(check_contents(contents.content, contents.image_root, subject))
        names = [image["file_name"] for image in contents.content["images"]]
        train, test = hold_out(contents, self._validation(names))
        return self._write(train, "train"), self._write(test, "test")

    def _validation(self, file_names: Sequence[str]) -> list[str]:
        seed = _value(self.cfg, "val_seed") or 0
        given = _value(self.cfg, "val_split")
        file = self._folder() / SPLIT_FILE if given is None else Path(str(given))
        if given is not None and not file.is_file():
            raise UserError(
                f"data.val_split: expected the record of a validation split, got {file}, which does not exist; set "
                "data.val_split=null to draw the split again"
            )
        names = recorded_validation(file, self.fraction, seed)
        if names is None or not set(names) & set(file_names):
            names = draw_validation(file_names, self.fraction, seed)
            file = self._folder() / SPLIT_FILE
            record_validation(file, names, self.fraction, seed)
        logger.info("%d of %s held out for evaluation, listed in %s", len(names), counted(file_names, "image"), file)
        OmegaConf.update(self.cfg, "data.val_split", str(file))
        return names

    def _folder(self) -> Path:
        folder = Path(self.cfg.train.output_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, contents: Contents, part: str) -> Dataset:
        file = self._folder() / f"{part}.json"
        text = json.dumps(contents.content)
        write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))
        logger.info("%s of data.%s: annotations in %s", counted(contents.content["images"], "image"), part, file)
        return Dataset(str(file), contents.image_root)
