"""Input sources for inference: images and videos from files, folders, glob patterns and standard input."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from flash_internimage.errors import UserError

VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"])
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One image or video.

    Attributes:
        path: path of the file, or "-" for standard input.
        name: unique stem for the output file.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether the source is a video, according to its suffix."""
        return Path(self.path).suffix.lower() in VIDEO_SUFFIXES


def find_sources(inputs: Iterable[str]) -> tuple[list[Source], list[str]]:
    """Find the images and videos for the inputs of the command line.

    Args:
        inputs: files, whose existence is checked only when they are read; folders, of which the images and videos directly
            inside are used; glob patterns such as ``photos/**/*.jpg``; or "-" for standard input.

    Returns:
        The sources, and the files in folders that were skipped because they do not have the suffix of an image or a video.

    Raises:
        UserError: a folder contains no images or videos, or no file matches a pattern.
    """
    paths: list[str] = []
    skipped: list[str] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found, others = _in_folder(path)
            skipped += others
            if not found:
                raise UserError(f"--source {text}: no images or videos in this folder ({len(others)} other files)")
        elif text != STDIN and not path.exists() and glob.has_magic(text):
            found = sorted(name for name in glob.glob(text, recursive=True) if Path(name).is_file())
            if not found:
                raise UserError(f"--source {text}: no file matches this pattern")
        else:
            found = [text]
        paths += found
    return _named(dict.fromkeys(paths)), skipped


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
        stem = "stdin" if path == STDIN else Path(path).stem
        name, number = stem, 1
        while name.lower() in taken:  # some file systems are case-insensitive
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        sources.append(Source(path, name))
    return sources
