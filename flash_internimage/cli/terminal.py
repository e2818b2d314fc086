"""Streams of a terminal whose encoding lacks some characters."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    r"""Make ``print`` and the log escape characters that stdout or stderr cannot encode, such as ``\xe9`` in the C locale.

    Otherwise a class name would end a run with a ``UnicodeEncodeError``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
