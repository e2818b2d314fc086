"""Text of programs on a terminal: numbers with their nouns, and streams whose encoding lacks some characters."""

from __future__ import annotations

import io
import sys
from collections.abc import Sized


def escape_unprintable() -> None:
    r"""Make ``print`` and the log escape characters that stdout or stderr cannot encode, such as ``\xe9`` in the C locale.

    Otherwise a class name would end a run with a ``UnicodeEncodeError``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def counted(things: Sized, noun: str) -> str:
    """Return the number of things with their noun, such as "1 error" or "2 errors"."""
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"
