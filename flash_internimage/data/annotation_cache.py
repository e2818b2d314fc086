"""Cache of parsed and validated annotation files, one folder for each content, in the user's cache folder.

An entry is named after a digest of the annotation file, of the code that reads and validates it, and of the settings on which
the validation depends. It holds data only, which is read without running code (:mod:`.serialized`). The folder belongs to the
user; one that others can write to is not used. Entries that were not used for a month are deleted.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pycocotools._mask

from flash_internimage import coco_format, images, plurals
from flash_internimage.locks import FileLock

from . import boxes, categories, check, findings, run_lengths, serialized, validation
from .serialized import SerializedDicts, save_dicts

logger = logging.getLogger(__name__)

Report = TypeVar("Report")

_MODULES = (
    *(boxes, categories, check, coco_format, findings, images, plurals, run_lengths, serialized, validation),
    pycocotools._mask,
)
_RULES = (*(Path(str(module.__file__)) for module in _MODULES), Path(__file__), Path(__file__).with_name("annotations.py"))
_REPORT, _IDS = "report.json", "ids.json"
_UNFINISHED = ".unfinished-"
_OWN = re.compile(rf"[0-9a-f]{{40}}|{re.escape(_UNFINISHED)}[0-9a-f]{{40}}-.+")  # names of entries and drafts
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the process, which say nothing about an entry
_DAYS = 30  # after which an unused entry is deleted


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/flash_internimage/annotations``, by default in ``~/.cache``.

    Raises:
        OSError: the path is not absolute, as without a home folder, so that it would depend on the working directory.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"))
    if not base.is_absolute():
        raise FileNotFoundError(f"expected an absolute path for the cache, got {base}; set XDG_CACHE_HOME")
    return base / "flash_internimage" / "annotations"


def prepare_folder(folder: Path) -> None:
    """Create the folder of the cache and its parent, which others can neither read nor replace.

    Raises:
        OSError: one of them cannot be created, is not a folder (such as a symbolic link), belongs to another user, or can be
            written to by others.
    """
    folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for private in (folder.parent, folder):
        private.mkdir(mode=0o700, exist_ok=True)
        status = private.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(f"{private} should be a folder, but is a symbolic link")
        if sys.platform != "win32":
            if status.st_uid != os.getuid():
                raise PermissionError(f"{private} belongs to another user")
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"others can write to {private}")
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                private.chmod(0o700)


def key_of(file: Path) -> str:
    """Return the name of the entry of an annotation file.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256(_digest_of_rules())
    digest.update(b"anywhere" if images.are_allowed_anywhere() else b"inside")
    with open(file, "rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:40]


@functools.cache
def _digest_of_rules() -> bytes:
    """Digest of the code that determines the contents of an entry, such that a new version reads the files again.

    Raises:
        OSError: the code is not in files.
    """
    digest = hashlib.sha256()
    for file in _RULES:
        digest.update(file.read_bytes())
    return digest.digest()


@contextlib.contextmanager
def writing(entry: Path, annotation_file: str) -> Iterator[None]:
    """Lock an entry, so that only one process parses the file.

    Raises:
        OSError: the lock cannot be created.
    """
    with FileLock(entry.with_name(f"{entry.name}.lock"), purpose=f"reads {annotation_file}") as lock:
        if lock.held:  # remaining drafts were left by killed processes
            for left in entry.parent.glob(f"{_UNFINISHED}{entry.name}-*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def open_entry(entry: Path, restore: Callable[[dict[str, Any]], Report]) -> tuple[SerializedDicts, Report] | None:
    """Return the dataset dicts and the report of an entry; None if there is none, or it is damaged.

    Args:
        restore: returns the report from its JSON form.

    Raises:
        OSError: this process has too many open files, or too little memory.
    """
    if not entry.is_dir():
        return None
    try:
        found = SerializedDicts.open(entry), restore(_read_json_object(entry / _REPORT))
        read_ids(entry)
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
    except Exception as error:  # damaged files make NumPy raise errors of zipfile, tokenize and others
        if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
            raise
        logger.warning("%s is damaged: %s", entry, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(entry)
    return found


def read_ids(entry: Path) -> dict[str, int | str]:
    """Return the id of the image of each file name of an entry.

    Raises:
        OSError: the entry has been deleted.
        ValueError: the file is damaged.
    """
    ids = _read_json_object(entry / _IDS)
    if not all(isinstance(id_, int | str) for id_ in ids.values()):
        raise ValueError(f"{_IDS}: expected an id for each file name")
    return ids


def _read_json_object(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file.name}: expected a JSON object, got a {type(content).__name__}")
    return content


def write_entry(entry: Path, dataset_dicts: Iterable[dict], report: Mapping[str, Any], ids: Mapping[str, int | str]) -> None:
    """Write an entry, completely or not at all, in place of a damaged one, and delete entries that are no longer used.

    Raises:
        OSError: the entry cannot be written.
    """
    draft = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{entry.name}-", dir=entry.parent))
    try:
        save_dicts(draft, dataset_dicts)
        (draft / _REPORT).write_text(json.dumps(report), encoding="utf-8")
        (draft / _IDS).write_text(json.dumps(ids), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(draft, entry)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _delete_unused(entry.parent)


def _delete_unused(folder: Path) -> None:
    """Delete old entries and drafts, and nothing that a user may have put into the folder."""
    oldest = time.time() - _DAYS * 24 * 3600
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            status = entry.lstat()
            if _OWN.fullmatch(entry.name) and stat.S_ISDIR(status.st_mode) and status.st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True)
