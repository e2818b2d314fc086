"""Reading checkpoint files from untrusted sources."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flash_internimage.errors import UserError

_MULTIARRAY = (np._core if hasattr(np, "_core") else np.core).multiarray  # renamed in NumPy 2

# Types that training frameworks leave in the `meta` of a checkpoint and whose construction runs no code, under their names in
# files; files written with NumPy 1 use the old name of the module.
HARMLESS_TYPES: dict[str, object] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"numpy.{core}.multiarray.{function.__name__}": function
        for core in ("core", "_core")
        for function in (_MULTIARRAY.scalar, _MULTIARRAY._reconstruct)
    },
}
# Constructed by calling numpy.dtype, so never named in a file, but checked by torch.
_DTYPES = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")]


class CheckpointError(UserError):
    """Raised for a file that is not a checkpoint, is corrupt, is refused, or does not fit the model."""


def read_checkpoint(path: str | os.PathLike[str], allow: Iterable[str] = ()) -> dict[str, Any]:
    """Read a ``.safetensors`` file, or a ``.pth`` file with ``weights_only=True``.

    Tensors are memory-mapped if the format allows it, so that only those in use are read.

    Args:
        path: a local file.
        allow: names from :data:`HARMLESS_TYPES` that the file may contain beside tensors and plain Python values.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or contains more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    _check_archive(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    is_zip = zipfile.is_zipfile(path)
    allowing = _allowing(path, allow)
    try:
        with allowing:
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, is_zip)) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"checkpoint {path}: not a file of torch.save ({_first_line(error)})") from error
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"checkpoint {path}: expected a dictionary of tensors, got {type(contents).__name__}")
    return dict(contents)


def _check_archive(path: Path) -> None:
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
    elif head[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"checkpoint {path}: the archive's directory, which is at the end of the file, is missing or damaged "
            f"(the file has {size} bytes); the download was interrupted or the published file is damaged: compare its size "
            "with the publisher's and download it again"
        )
    elif head[:15].lstrip().lower().startswith((b"<!doct", b"<html", b"version ")):
        raise CheckpointError(
            f"checkpoint {path}: this is a web page or a Git LFS pointer of {size} bytes, not the checkpoint itself"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {path}: damaged safetensors file ({_first_line(error)})") from error


def _allowing(path: Path, allow: Iterable[str]) -> AbstractContextManager[None]:
    unknown = sorted(set(allow) - set(HARMLESS_TYPES))
    if unknown:
        raise CheckpointError(
            f"checkpoint {path}: {', '.join(unknown)} cannot be allowed; only {', '.join(sorted(HARMLESS_TYPES))} can"
        )
    # The pairs allow a type under the name that the file uses, which may be an old one.
    types: list[Any] = [(HARMLESS_TYPES[name], name) for name in allow]
    return torch.serialization.safe_globals([*types, *_DTYPES] if types else [])


def _refusal(path: Path, is_zip: bool) -> str:
    if not is_zip:
        return (
            f"checkpoint {path}: not a file of torch.save, or one in the format before PyTorch 1.6 that contains more than "
            "plain data; it was not unpickled, since that could run code"
        )
    needed = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    refused = f"checkpoint {path}: refused, since reading it would construct {', '.join(needed)}, and unpickling can run code"
    if set(needed) <= set(HARMLESS_TYPES):
        return (
            f"{refused}; these types are harmless: "
            f"`flash-internimage convert {path} OUT.pth --allow {' '.join(needed)}` reads exactly them"
        )
    return f"{refused}; ask the publisher for a file with tensors only (.safetensors)"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
