"""The images and videos that files, folders, patterns and standard input name."""

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
        path: of the file, or "-" for standard input.
        name: for the file that is made of it, without suffix; no two sources have the same.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        """Whether its suffix is a video's."""
        return Path(self.path).suffix.lower() in VIDEO_SUFFIXES


def find_sources(inputs: Iterable[str]) -> tuple[list[Source], list[str]]:
    """The images and videos that ``--source`` names.

    Args:
        inputs: files, which need not exist, for reading them says so; folders, of which the images and videos directly in
            them are taken; patterns such as ``photos/**/*.jpg``; or "-".

    Returns:
        The sources, and the files of folders that were passed over because their suffix is neither an image's nor a video's.

    Raises:
        UserError: a folder has no images, or nothing matches a pattern.
    """
    paths: list[str] = []
    passed_over: list[str] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found, others = _in_folder(path)
            passed_over += others
            if not found:
                raise UserError(f"--source {text}: no images or videos in this folder ({len(others)} other files)")
        elif text != STDIN and not path.exists() and glob.has_magic(text):
            found = sorted(name for name in glob.glob(text, recursive=True) if Path(name).is_file())
            if not found:
                raise UserError(f"--source {text}: no file matches this pattern")
        else:
            found = [text]
        paths += found
    return _named(dict.fromkeys(paths)), passed_over


def _in_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Images and videos, and other files; hidden ones are neither."""
    known = VIDEO_SUFFIXES | {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    wanted = [str(path) for path in files if path.suffix.lower() in known]
    return wanted, [str(path) for path in files if path.suffix.lower() not in known]


def _named(paths: Iterable[str]) -> list[Source]:
    """Sources with the stems of their paths for names; where that is taken, a number is added."""
    taken: set[str] = set()
    sources = []
    for path in paths:
        stem = "stdin" if path == STDIN else Path(path).stem
        name, number = stem, 1
        while name.lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        sources.append(Source(path, name))
    return sources
