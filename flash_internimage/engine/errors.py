"""What a user sees when a run cannot go on: one line for a mistake of theirs, the whole traceback for one of ours."""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

SHOW_TRACEBACK = "FLASH_INTERNIMAGE_TRACEBACK"
"""Environment variable: when set to anything but 0, every error is shown with its traceback."""

_PACKAGE = Path(__file__).resolve().parents[1]
_OWN_CODE = (_PACKAGE, *(_PACKAGE.parent / name for name in ("projects", "train_net.py", "tools", "demo")))
_REPORTED_TYPES = (ValueError, RuntimeError, OSError, FloatingPointError)
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+), in .+$', re.MULTILINE)


@contextlib.contextmanager
def reported(program: str, silent: bool = False) -> Iterator[None]:
    """End the program with one line on stderr and exit code 1 where the error inside is one of the user's.

    Other errors pass through, with their traceback.

    Args:
        program: what the line starts with.
        silent: print nothing, because another process prints the same.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = message_for_user(error)
        if message is None or os.environ.get(SHOW_TRACEBACK, "0") != "0":
            raise
        if not silent:
            print(f"{program}: error: {message}", file=sys.stderr, flush=True)
        sys.exit(1)


def message_for_user(error: BaseException) -> str | None:
    """The one line that explains ``error``, or None if it needs its traceback to be understood.

    Explained by their text are: an error that this project's code raises on purpose (its innermost frame is a ``raise``
    statement of ours), an error of the file system that names its file, and a GPU that is out of memory.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            f"out of GPU memory ({_first_sentence(str(error))}); lower dataloader.train.total_batch_size, raise "
            "train.accumulation_steps, or set train.amp.enabled=true or model.backbone.bottom_up.with_cp=true"
        )
    if not isinstance(error, _REPORTED_TYPES):
        return None
    in_worker = _FRAME.findall(str(error))
    if in_worker:  # a data loading worker sends its traceback as the text of the error
        file, line = in_worker[-1]
        return _last_message(str(error)) if _is_raise_of_ours(file, int(line)) else None
    if "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error):
        return "another process of this run ended; its own message says why"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    frames = traceback.extract_tb(error.__traceback__)
    if frames and _is_raise_of_ours(frames[-1].filename, frames[-1].lineno or 0):
        return str(error)
    return None


def _is_raise_of_ours(file: str, line: int) -> bool:
    path = Path(file).resolve()
    ours = any(path == own or own in path.parents for own in _OWN_CODE)
    return ours and linecache.getline(file, line).lstrip().startswith("raise ")


def _last_message(text: str) -> str:
    """The message of the last error in the text of a traceback: what follows ``SomeError: `` after its last frame."""
    after = text[list(_FRAME.finditer(text))[-1].end() :]
    found = re.search(r"^[\w.]+: (.*)", after, re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else text.strip().splitlines()[-1]


def _first_sentence(text: str) -> str:
    return text.split(". ")[0]
