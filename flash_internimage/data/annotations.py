"""Annotation files, each parsed and validated once per machine and version: what they contain is cached and shared.

The first process that needs a large file reads it and writes an entry of the cache (:mod:`.annotation_cache`), while others
wait. All of them then map the entry: it is in memory once, for all processes of a machine and their loader workers. Where the
cache cannot be used, each process keeps the contents in its own memory.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from flash_internimage.coco_format import dataset_dicts_of
from flash_internimage.errors import UserError
from flash_internimage.images import are_allowed_anywhere
from flash_internimage.path_manager import PathManager
from flash_internimage.plurals import counted

from .annotation_cache import cache_folder, key_of, open_entry, prepare_folder, read_ids, write_entry, writing
from .categories import Categories
from .check import DatasetReport, check_files, many_objects, read_and_validate
from .serialized import SerializedDicts, load_plain

logger = logging.getLogger(__name__)

MIN_CACHED = 8 * 2**20
"""Size in bytes of the smallest annotation file that is cached; smaller ones are read in less than a second."""

_NOT_CACHED = "%s is kept in the memory of each process, since it cannot be cached: %s"
_SENTENCES = ("errors", "warnings")
_TABLES = ("objects", "images_with", "image_sizes", "objects_by_size")


@dataclass(frozen=True, eq=False)
class Annotations:
    """What an annotation file contains.

    Attributes:
        report: without the image files, and with an empty ``image_root``.
        serialized: dataset dicts without ``annotation_file``, whose ``file_name`` is relative and whose annotations have no
            ``bbox_mode``, which is XYWH; None if the report has errors.
        ids: returns the id of the image of each file name.
    """

    report: DatasetReport
    serialized: SerializedDicts | None
    ids: Callable[[], Mapping[str, int | str]]


def read_annotations(annotation_file: str) -> Annotations:
    """Return the contents of an annotation file in COCO format, from memory or the cache if they are there.

    A file is read and validated again only if it has changed since the last call.
    """
    try:
        local = Path(PathManager.get_local_path(annotation_file))
        status = local.stat()
    except (OSError, UserError):
        return _parse(annotation_file)  # whose report says what is wrong
    return _read(annotation_file, local, status.st_mtime_ns, status.st_size, are_allowed_anywhere())


@functools.lru_cache(maxsize=16)
def _read(annotation_file: str, local: Path, changed_ns: int, size: int, anywhere: bool) -> Annotations:
    return _parse(annotation_file) if size < MIN_CACHED else _read_cached(annotation_file, local, (changed_ns, size))


def _parse(annotation_file: str) -> Annotations:
    """Read a file to the memory of this process."""
    with many_objects():
        report, content, ids = read_and_validate(annotation_file)
        serialized = None if report.errors else SerializedDicts.of(dataset_dicts_of(content), load_plain)
        return Annotations(report, serialized, lambda: ids)


def _read_cached(annotation_file: str, local: Path, version: tuple[int, int]) -> Annotations:
    try:
        folder = cache_folder()
        prepare_folder(folder)
        entry = folder / key_of(local)
        found = _look_up(annotation_file, entry)
        if found is not None:
            logger.info("%s: %s, read from %s", annotation_file, counted(found.report.num_images, "image"), entry)
            return found
        with writing(entry, annotation_file):
            found = _look_up(annotation_file, entry)  # another process may have written it meanwhile
            return _write(annotation_file, local, version, entry) if found is None else found
    except OSError as error:
        logger.warning(_NOT_CACHED, annotation_file, error)
        return _parse(annotation_file)


def _look_up(annotation_file: str, entry: Path) -> Annotations | None:
    found = open_entry(entry, partial(_report_from_json, annotation_file=annotation_file))
    if found is None:
        return None
    serialized, report = found
    return Annotations(report, serialized, partial(_ids_of, annotation_file, entry))


def _ids_of(annotation_file: str, entry: Path) -> Mapping[str, int | str]:
    try:
        return read_ids(entry)
    except (OSError, ValueError) as error:  # somebody has deleted or damaged it since it was opened
        logger.warning("%s is read again: %s", annotation_file, error)
        return _parse(annotation_file).ids()


def _write(annotation_file: str, local: Path, version: tuple[int, int], entry: Path) -> Annotations:
    """Read a file, and write it to the cache if it has no errors.

    Args:
        version: time of change and size of the file before the name of the entry was computed.
    """
    start = time.monotonic()
    with many_objects():
        report, content, ids = read_and_validate(annotation_file)
        if report.errors:
            return Annotations(report, None, lambda: ids)
        try:
            status = local.stat()
            if (status.st_mtime_ns, status.st_size) != version:
                raise OSError("it has changed while it was read")
            write_entry(entry, dataset_dicts_of(content), _report_to_json(report), ids)
            serialized = SerializedDicts.open(entry)
        except OSError as error:
            logger.warning(_NOT_CACHED, annotation_file, error)
            return Annotations(report, SerializedDicts.of(dataset_dicts_of(content), load_plain), lambda: ids)
    seconds = time.monotonic() - start
    images = counted(serialized, "image")
    logger.info("%s: %s, read in %.0f s and cached in %s", annotation_file, images, seconds, entry)
    return Annotations(report, serialized, partial(_ids_of, annotation_file, entry))


def _report_to_json(report: DatasetReport) -> dict[str, Any]:
    """Return a report without the names of its files; keys of tables that are not text become pairs."""
    prefix = f"{report.source}: "
    saved = {each.name: getattr(report, each.name) for each in fields(report)}
    for name in ("annotation_file", "image_root", "source", "in_code"):
        del saved[name]
    for name in _SENTENCES:
        saved[name] = [sentence.removeprefix(prefix) for sentence in saved[name]]
    for name in ("categories", *_TABLES):
        saved[name] = list(saved[name].items())
    if report.untrainable is not None:
        saved["untrainable"] = report.untrainable.removeprefix(prefix)
    return saved


def _report_from_json(saved: Mapping[str, Any], annotation_file: str) -> DatasetReport:
    report = DatasetReport(annotation_file, "")
    found = dict(saved)
    for name in _SENTENCES:
        found[name] = [f"{report.source}: {sentence}" for sentence in saved[name]]
    for name in _TABLES:
        kind = type(getattr(report, name))
        found[name] = kind({tuple(key) if isinstance(key, list) else key: value for key, value in saved[name]})
    found["categories"] = Categories(dict(saved["categories"]))
    if saved["untrainable"] is not None:
        found["untrainable"] = f"{report.source}: {saved['untrainable']}"
    return replace(report, **found)


def check_dataset_once(annotation_file: str, image_root: str) -> DatasetReport:
    """Cached version of :func:`.check.check_dataset`: a file is read again only if it has changed."""
    return _checked(read_annotations(annotation_file), image_root)


@functools.lru_cache(maxsize=16)
def _checked(annotations: Annotations, image_root: str) -> DatasetReport:
    report = replace(annotations.report, image_root=image_root, errors=[*annotations.report.errors])
    check_files(report, annotations.ids())
    return report
