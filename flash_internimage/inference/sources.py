"""Input sources for inference: images and videos from files, folders, patterns, lists, cameras, streams and standard input."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from flash_internimage.errors import UserError

VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"])
STDIN = "-"
_URL = re.compile(r"(?:rtsps?|rtmps?|https?|udp|tcp|srt)://", re.IGNORECASE)
_LIST_SUFFIX = ".txt"


@dataclass(frozen=True)
class Source:
    """One image or video.

    Attributes:
        path: path of the file, number of a camera, URL, or "-" for standard input.
        name: unique stem for the output file.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the source is a video: a file with such a suffix, a camera or a URL."""
        return self.is_camera or self.is_url or Path(self.path).suffix.lower() in VIDEO_SUFFIXES

    @property
    def is_camera(self) -> bool:
        """Whether the source is the number of a camera."""
        return _is_camera(self.path)

    @property
    def is_url(self) -> bool:
        """Whether the source is the URL of a video or a stream."""
        return _URL.match(self.path) is not None

    @property
    def is_file(self) -> bool:
        """Whether the source is a path in the file system."""
        return not (self.is_camera or self.is_url or self.path == STDIN)

    @property
    def label(self) -> str:
        """The path for messages and results: a URL without user name, password and query."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.path).partition("?")[0] if self.is_url else self.path


def find_sources(inputs: Iterable[str]) -> tuple[list[Source], list[str]]:
    """Find the images and videos for the inputs of the command line.

    Args:
        inputs: files, whose existence is checked only when they are read; folders, of which the images and videos directly
            inside are used; glob patterns such as ``photos/**/*.jpg``; text files (``.txt``) that list inputs, one per line;
            the number of a camera; URLs of videos and streams (``rtsp://``, ``http://`` and others); or "-" for standard input.

    Returns:
        The sources, and the files in folders that were skipped because they do not have the suffix of an image or a video.

    Raises:
        UserError: a folder contains no images or videos, no file matches a pattern, or a list is empty or cannot be read.
    """
    paths: list[str] = []
    skipped: list[str] = []
    for text in [entry for given in inputs for entry in _entries(given)]:
        path = Path(text)
        if path.is_dir():
            found, others = _in_folder(path)
            skipped += others
            if not found:
                raise UserError(f"--source {text}: no images or videos in this folder ({len(others)} other files)")
        elif Source(text, "").is_file and not path.exists() and glob.has_magic(text):
            found = sorted(name for name in glob.glob(text, recursive=True) if Path(name).is_file())
            if not found:
                raise UserError(f"--source {text}: no file matches this pattern")
        else:
            found = [text]
        paths += found
    return _named(dict.fromkeys(paths)), skipped


def _entries(text: str) -> list[str]:
    """The inputs that a text file lists; for any other input, the input itself.

    A relative path starts from the current folder or, if there is no such file, from that of the list. Empty lines and those
    that start with # are ignored.
    """
    path = Path(text)
    if path.suffix.lower() != _LIST_SUFFIX or _URL.match(text) or path.is_dir():
        return [text]
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"--source {text}: should be a list of inputs, but cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--source {text}: should be a list of inputs, one per line in UTF-8, but is not text") from error
    entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise UserError(f"--source {text}: should list inputs, one per line, but is empty")
    if any(Path(entry).suffix.lower() == _LIST_SUFFIX and not _URL.match(entry) for entry in entries):
        raise UserError(f"--source {text}: a list should not contain another list; give both as inputs")
    return [_beside(path, entry) for entry in entries]


def _beside(path: Path, entry: str) -> str:
    is_beside = Source(entry, "").is_file and not Path(entry).exists() and (path.parent / entry).exists()
    return str(path.parent / entry) if is_beside else entry


def _is_camera(text: str) -> bool:
    return re.fullmatch(r"\d{1,2}", text) is not None and not Path(text).exists()


def _in_folder(folder: Path) -> tuple[list[str], list[str]]:
    """List the images and videos in a folder, and its other files; hidden files are ignored."""
    known = VIDEO_SUFFIXES | {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    wanted = [str(path) for path in files if path.suffix.lower() in known]
    return wanted, [str(path) for path in files if path.suffix.lower() not in known]


def _named(paths: Iterable[str]) -> list[Source]:
    """Name each source after the stem of its path, with a number appended to duplicates."""
    taken: set[str] = set()
    sources = []
    for path in paths:
        stem = _stem(path)
        name, number = stem, 1
        while name.lower() in taken:  # some file systems are case-insensitive
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        sources.append(Source(path, name))
    return sources


def _stem(path: str) -> str:
    source = Source(path, "")
    if source.is_camera:
        return f"camera{path}"
    if source.is_url:  # host and path, in characters that every file system takes
        return re.sub(r"[^\w.-]+", "_", source.label.partition("://")[2]).strip("_.") or "stream"
    return "stdin" if path == STDIN else Path(path).stem
