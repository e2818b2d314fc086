"""What a user sees when a run cannot go on: one line for a mistake of theirs, the whole traceback for one of ours."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

import torch

from flash_internimage.errors import UserError

SHOW_TRACEBACK = "FLASH_INTERNIMAGE_TRACEBACK"
"""Environment variable: when set to anything but 0, every error is shown with its traceback."""


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

    Explained by their text are :class:`~flash_internimage.errors.UserError`, also when a data loading worker raised it, an
    error of the file system that names its file, and a GPU that is out of memory.
    """
    if isinstance(error, UserError):
        return _without_traceback(str(error))
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            f"out of GPU memory ({_first_sentence(str(error))}); lower dataloader.train.total_batch_size, raise "
            "train.accumulation_steps, or set train.amp.enabled=true or model.backbone.bottom_up.with_cp=true"
        )
    if "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error):
        return "another process of this run ended; its own message says why"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _without_traceback(text: str) -> str:
    """The message inside ``text``: PyTorch re-raises an error of a loader worker with the worker's traceback as its text."""
    matches = list(re.finditer(r"^flash_internimage\.[\w.]+: ", text, re.MULTILINE))
    return text[matches[-1].end() :].strip() if matches else text


def _first_sentence(text: str) -> str:
    return text.split(". ")[0]
