"""Dataset dicts in one buffer with arrays of what is needed of all images, which processes can map from files and share.

A list of dicts takes ten times the memory, and each process that reads one makes its own copy, since Python counts references.
"""

from __future__ import annotations

import io
import os
import pickle
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from detectron2.structures import BoxMode

_PROTOCOL = 4  # of pickle, the same in all supported versions of Python
_BUFFER = "dicts.bin"
_COLUMNS = {  # data type and shape after the first axis
    "ends": (np.int64, ()),
    "sizes": (np.int64, (2,)),
    "objects": (np.int64, ()),
    "boxes": (np.float64, (4,)),
    "is_crowd": (np.bool_, ()),
    "has_mask": (np.bool_, ()),
}


class PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, text, bytes, numbers and None, and refuses everything else: it cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"expected plain values, got {module}.{name}")


def load_plain(data: memoryview) -> Any:
    """Unpickle plain values.

    Raises:
        pickle.UnpicklingError: the data refers to anything else.
    """
    return PlainUnpickler(io.BytesIO(data)).load()


class SerializedDicts:
    """Serialized dataset dicts of N images with A objects.

    Args:
        buffer: pickled dataset dicts, one after another, as ``uint8``.
        columns: ``ends``: (N + 1,), where the dataset dict of each image ends in the buffer, after a zero; ``sizes``: (N, 2),
            height and width in pixels; ``objects``: (N + 1,), number of objects up to each image, after a zero; ``boxes``:
            (A, 4), XYWH in absolute pixels; ``is_crowd`` and ``has_mask``: (A,).
        load: unpickles a dataset dict.
        folder: folder from which the arrays are mapped; None if they are in memory.

    Raises:
        ValueError: the arrays contradict each other.
    """

    def __init__(
        self,
        buffer: np.ndarray,
        columns: Mapping[str, np.ndarray],
        load: Callable[[memoryview], dict],
        folder: Path | None = None,
    ) -> None:
        self.buffer = buffer
        self.ends, self.sizes, self.objects = columns["ends"], columns["sizes"], columns["objects"]
        self.boxes, self.is_crowd, self.has_mask = columns["boxes"], columns["is_crowd"], columns["has_mask"]
        self._columns = columns
        self._load = load
        self._folder = folder
        _require_consistent(buffer, columns)

    @classmethod
    def of(cls, dataset_dicts: Iterable[dict], load: Callable[[memoryview], dict] = pickle.loads) -> SerializedDicts:
        """Serialize dataset dicts in memory."""
        file = io.BytesIO()
        columns = _serialize(dataset_dicts, file)
        return cls(np.frombuffer(file.getbuffer(), dtype=np.uint8), columns, load)

    @classmethod
    def open(cls, folder: Path) -> SerializedDicts:
        """Map the files that :func:`save_dicts` has written.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file is truncated, or was not written by :func:`save_dicts`.
        """
        buffer = np.memmap(folder / _BUFFER, dtype=np.uint8, mode="r")
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _COLUMNS}
        return cls(buffer, columns, load_plain, folder)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> dict:
        return self._load(self.buffer[self.ends[index] : self.ends[index + 1]].data)

    def __reduce__(self) -> tuple[Callable[..., SerializedDicts], tuple[Any, ...]]:
        """Processes that do not inherit the memory of this one map the files, too."""
        if self._folder is not None and self._folder.is_dir():
            return SerializedDicts.open, (self._folder,)
        columns = {name: np.asarray(column) for name, column in self._columns.items()}
        return SerializedDicts, (np.asarray(self.buffer), columns, self._load)


def save_dicts(folder: Path, dataset_dicts: Iterable[dict]) -> None:
    """Serialize dataset dicts of plain values to files of a folder, for :meth:`SerializedDicts.open`.

    Args:
        dataset_dicts: taken one at a time, so that they need not be in memory at the same time.

    Raises:
        OSError: the files cannot be written.
    """
    with open(folder / _BUFFER, "wb") as file:
        columns = _serialize(dataset_dicts, file)
        _flush(file)
    for name, column in columns.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, column, allow_pickle=False)
            _flush(file)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _serialize(dataset_dicts: Iterable[dict], file: BinaryIO) -> dict[str, np.ndarray]:
    """Write pickled dataset dicts to a file; return the other arrays of :class:`SerializedDicts`."""
    ends, sizes, objects, boxes = array("q", [0]), array("q"), array("q", [0]), array("d")
    is_crowd, has_mask = array("B"), array("B")
    for dataset_dict in dataset_dicts:
        ends.append(ends[-1] + file.write(pickle.dumps(dataset_dict, _PROTOCOL)))
        sizes.extend((dataset_dict["height"], dataset_dict["width"]))
        annotations = dataset_dict["annotations"]
        objects.append(objects[-1] + len(annotations))
        for annotation in annotations:
            x, y, width, height = map(float, annotation["bbox"])
            if annotation.get("bbox_mode") == BoxMode.XYXY_ABS:
                width, height = width - x, height - y
            boxes.extend((x, y, width, height))
            is_crowd.append(bool(annotation.get("iscrowd", 0)))
            has_mask.append("segmentation" in annotation)
    found: list[array] = [ends, sizes, objects, boxes, is_crowd, has_mask]  # as in _COLUMNS
    return {
        name: np.frombuffer(values.tobytes(), dtype=dtype).reshape(-1, *shape)
        for values, (name, (dtype, shape)) in zip(found, _COLUMNS.items(), strict=True)
    }


def _require_consistent(buffer: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    for name, (dtype, shape) in _COLUMNS.items():
        if columns[name].dtype != dtype or columns[name].shape[1:] != shape:
            raise ValueError(f"{name}: expected {np.dtype(dtype)} of shape (any, *{shape})")
    images, objects = len(columns["sizes"]), len(columns["boxes"])
    for name, last in (("ends", len(buffer)), ("objects", objects)):
        column = columns[name]
        if len(column) != images + 1 or column[0] != 0 or column[-1] != last or (np.diff(column) < 0).any():
            raise ValueError(f"{name}: expected {images + 1} ascending numbers from 0 to {last}")
    if not len(columns["is_crowd"]) == len(columns["has_mask"]) == objects:
        raise ValueError("is_crowd, has_mask: expected one value for each object")
