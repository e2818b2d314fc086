"""Atomic writing of files, and the error message for a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from flash_internimage.errors import UserError

_UNFINISHED = ".unfinished-"
_NO_SPACE = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file exceeds the largest size allowed",
}
# torch.save loses the cause of a failed write: its archive writer raises this while the OSError is being handled, or alone.
_FAILED_TORCH_SAVE = re.compile(r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed writing")


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file atomically: ``write`` creates a temporary file in the same folder, which is then renamed to ``path``.

    Readers see either the old file or the complete new one, even if the process is killed or the disk is full.

    Args:
        path: file to create or replace.
        write: function that writes the content to the path it is given.

    Raises:
        UserError: the disk is full; the message has the size written so far and the free space.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with full_disk_reported(path, lambda: temporary):
            descriptor, name = tempfile.mkstemp(prefix=_UNFINISHED, suffix=path.suffix, dir=path.parent)
            os.close(descriptor)
            temporary = Path(name)
            write(temporary)
            # mkstemp restricts the permissions to the owner; the result gets the default permissions.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Delete the temporary files that killed processes left in a folder; no other process may be writing to it."""
    for path in Path(folder).glob(f"{_UNFINISHED}*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_reported(path: str | os.PathLike[str], written: Callable[[], Path | None] | None = None) -> Iterator[None]:
    """Replace an error that is caused by a full disk by one sentence with the file, its size and the free space.

    Args:
        path: the file or folder that is written, named in the message.
        written: returns the file that holds what was written so far, or None; by default ``path`` itself.

    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
    try:
        yield
    except Exception as error:
        reason = _no_space(error)
        if reason is None:
            raise
        partial = path if written is None else written()
        size = _size(partial) if partial is not None else 0
        place = path.parent if path.parent.is_dir() else Path(".")
        free = shutil.disk_usage(place).free
        raise UserError(
            f"{path}: cannot be written, since {reason} ({_mebibytes(size)} were written, {_mebibytes(free)} are free); "
            "free some space, or write to another disk"
        ) from error


def _no_space(error: BaseException | None) -> str | None:
    """Return the reason if an error, or one that it was raised from, is a lack of space; otherwise None."""
    found = None
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return _NO_SPACE[error.errno]
        if isinstance(error, RuntimeError) and _FAILED_TORCH_SAVE.search(str(error)):
            found = "the disk is full or fails"
        error = error.__cause__ or error.__context__
    return found


def _size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
