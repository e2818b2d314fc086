"""Reading checkpoint files from untrusted sources."""

from __future__ import annotations

import json
import os
import shlex
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from flash_internimage.errors import UserError

from .archive import OTHER_TENSORS, PLAIN_NAMES, BadFile, check_entries, is_archive, names_in
from .numpy_values import BUILDERS, Array, ArrayType, Dtype, dtype_of

_NOT_UNPICKLED = (
    "not a file of torch.save, or one in the format before PyTorch 1.6 that contains more than plain data; it was not "
    "unpickled, since that could run code"
)


class CheckpointError(UserError):
    """Raised for a file that is not a checkpoint, is corrupt, is refused, or does not fit the model."""


def read_checkpoint(path: str | os.PathLike[str], allow: Iterable[str] = ()) -> dict[str, Any]:
    """Read a ``.safetensors`` file, or a ``.pth`` file with ``weights_only=True``.

    Tensors are memory-mapped if the format allows it, so that only those in use are read.

    Args:
        path: a local file.
        allow: names from :data:`.numpy_values.BUILDERS` that the file may contain beside tensors and plain Python values.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or contains more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    _check_head(path)
    if path.suffix == ".safetensors":
        contents = _read_safetensors(path)
    else:
        _require_plain(path, set(allow))
        contents = _unpickle(path, set(allow))
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"checkpoint {path}: expected a dictionary of tensors, got {type(contents).__name__}")
    unnamed = next((key for key in contents if not isinstance(key, str)), None)
    if unnamed is not None:
        raise CheckpointError(f"checkpoint {path}: expected names as its keys, got a key of type {type(unnamed).__name__}")
    return dict(contents)


def _check_head(path: Path) -> None:
    """Raise an error that describes a damaged file, before a reader fails on it."""
    size = path.stat().st_size
    if size == 0:
        raise CheckpointError(f"checkpoint {path}: the file is empty; download or save it again")
    with open(path, "rb") as file:
        head = file.read(8)
    if path.suffix == ".safetensors":
        header = int.from_bytes(head, "little")
        if len(head) < 8 or header > size - 8:
            raise CheckpointError(
                f"checkpoint {path}: its header claims {header} bytes, the file has {size}; "
                "it is truncated or not a safetensors file: download it again"
            )
    elif head[:4] == b"PK\x03\x04" and not _has_directory(path):
        raise CheckpointError(
            f"checkpoint {path}: the archive's directory, which is at the end of the file, is missing or damaged "
            f"(the file has {size} bytes); the download was interrupted or the published file is damaged: compare its size "
            "with the publisher's and download it again"
        )
    elif head[:15].lstrip().lower().startswith((b"<!doct", b"<html", b"version ")):
        raise CheckpointError(
            f"checkpoint {path}: this is a web page or a Git LFS pointer of {size} bytes, not the checkpoint itself"
        )


def _has_directory(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a directory that is split into several files
        return False


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Read the tensors and, if the metadata has them, the class names (:func:`.convert.write_safetensors`)."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
        return {"model": tensors, "classes": json.loads(metadata["classes"])} if "classes" in metadata else tensors
    except Exception as error:  # SafetensorError, and KeyError for a dtype that torch lacks
        raise CheckpointError(f"checkpoint {path}: damaged safetensors file ({_first_line(error)})") from error


def _require_plain(path: Path, allow: set[str]) -> None:
    """Raise an error unless a file holds only dense tensors, plain Python values and allowed names; nothing is unpickled."""
    unknown = sorted(allow - set(BUILDERS))
    if unknown:
        raise CheckpointError(
            f"checkpoint {path}: {', '.join(unknown)} cannot be allowed; only {', '.join(sorted(BUILDERS))} can"
        )
    try:
        if is_archive(path):
            check_entries(path)
        needed = names_in(path) - PLAIN_NAMES - allow
    except BadFile as error:
        raise CheckpointError(f"checkpoint {path}: {error if is_archive(path) else _NOT_UNPICKLED}") from error
    if not needed:
        return
    others = sorted({OTHER_TENSORS[name] for name in needed if name in OTHER_TENSORS})
    if others:
        raise CheckpointError(f"checkpoint {path}: it holds {' and '.join(others)}, expected plain dense tensors")
    refused = f"checkpoint {path}: refused, since reading it would construct {_listed(needed)}, and unpickling can run code"
    if needed <= set(BUILDERS):
        raise CheckpointError(
            f"{refused}; these types are harmless: `flash-internimage convert {shlex.quote(str(path))} OUT.pth "
            f"--allow {' '.join(sorted(needed | allow))}` reads exactly them"
        )
    if not is_archive(path):
        raise CheckpointError(f"checkpoint {path}: {_NOT_UNPICKLED}")
    raise CheckpointError(f"{refused}; ask the publisher for a file with tensors only (.safetensors)")


def _unpickle(path: Path, allow: set[str]) -> Any:
    # The pairs put our builders under NumPy's names. The builders have no other name that a file could use.
    builders: list[Any] = [(BUILDERS[name], name) for name in allow]
    try:
        with torch.serialization.safe_globals(builders):
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path) or None)
        return _Finished(path.stat().st_size).value(contents)
    except BadFile as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    except Exception as error:  # torch.load raises exceptions of many types for a damaged file
        raise CheckpointError(f"checkpoint {path}: not a file of torch.save ({_first_line(error)})") from error


class _Finished:
    """Replaces the builders in a checkpoint by NumPy's values, and checks its tensors.

    Args:
        size: of the file in bytes, which bounds the size of each tensor: the values of a small storage can be repeated
            to a tensor of any size.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._done: dict[int, tuple[Any, Any]] = {}  # id -> object, which keeps the id valid, and its replacement

    def value(self, found: Any) -> Any:
        """Return the replacement of an object; containers may hold themselves."""
        if id(found) in self._done:
            return self._done[id(found)][1]
        kind = type(found)
        if isinstance(found, torch.Tensor):
            self._check(found)
        elif kind is Array:
            if found.value is None:
                raise BadFile("it holds a NumPy array without contents")
            return found.value
        elif kind is Dtype:
            return dtype_of(found)
        elif found is ArrayType:
            raise BadFile("it holds NumPy's type of arrays, expected an array")
        elif kind in (dict, OrderedDict):
            self._done[id(found)] = found, found
            for key in found:
                found[key] = self.value(found[key])
        elif kind is list:
            self._done[id(found)] = found, found
            found[:] = [self.value(item) for item in found]
        elif kind is tuple:
            self._done[id(found)] = found, tuple(self.value(item) for item in found)
            return self._done[id(found)][1]
        return found

    def _check(self, tensor: torch.Tensor) -> None:
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise BadFile(f"it holds a tensor that is not dense ({tensor.layout}, {tensor.device})")
        if tensor.numel() * tensor.element_size() > self._size or tensor.untyped_storage().nbytes() > self._size:
            raise BadFile(f"it holds a tensor of shape {tuple(tensor.shape)}, which has more bytes than the file")


def _listed(names: Iterable[str], limit: int = 10) -> str:
    names = sorted(name[:80] for name in names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
