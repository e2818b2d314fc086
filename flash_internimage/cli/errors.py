"""Reporting of errors by the programs: one line for a user error, a traceback for a bug."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator

from flash_internimage.errors import UserError

SHOW_TRACEBACK = "FLASH_INTERNIMAGE_TRACEBACK"
"""Environment variable: when set to anything but 0, every error is shown with its traceback."""

_HOW_TO_INSTALL = {
    "cv2": "images are resized and drawn with OpenCV: pip install opencv-python-headless",
    "detectron2": "see https://detectron2.readthedocs.io/tutorials/install.html",
    "torch": "see https://pytorch.org/get-started",
    "torchvision": "see https://pytorch.org/get-started",
}
"""Packages that the user installs, because more than one distribution provides them."""


class UsageError(UserError):
    """Raised for arguments that contradict each other; the exit code is 2, as for argparse's own errors."""


@contextlib.contextmanager
def reported(program: str, silent: bool = False) -> Iterator[None]:
    """Exit with one line on stderr if the block raises an error that the user can fix.

    The exit code is 2 for a :class:`UsageError`, 130 for an interrupt, and 1 otherwise. Other errors pass through, with
    their traceback.

    Args:
        program: name of the program, with which the line starts.
        silent: print nothing, because another process prints the same line.
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
            print(f"{program}: error: {printable(message)}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def printable(text: str) -> str:
    """Return a text with its control characters escaped: text from a file could otherwise change what a terminal shows."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def message_for_user(error: BaseException) -> str | None:
    """Return the one line that explains ``error``, or None if it needs its traceback to be understood.

    One line explains a :class:`~flash_internimage.errors.UserError`, also when a data loader worker raised it, a package that
    the user has to install, an error of the file system that names its file, a GPU that is out of memory, and a value
    that a config lacks.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in _HOW_TO_INSTALL:
        return f"{error.name} is not installed; {_HOW_TO_INSTALL[error.name]}"

    import torch  # here, so that `flash-internimage --help` does not wait for it

    if isinstance(error, UserError):
        return _without_traceback(str(error))
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return (
            f"out of GPU memory ({_first_sentence(str(error))}); to train with less memory at the same batch "
            "size, continue with --resume and a higher train.accumulation_steps, such as 2, or set train.amp.enabled=true or "
            "model.backbone.bottom_up.with_cp=true"
        )
    configs = sys.modules.get("omegaconf.errors")  # comes with detectron2, which not all commands need
    if configs is not None and isinstance(error, (configs.ConfigKeyError, configs.ConfigAttributeError)):
        return (
            f"the config has no {error.full_key}; a section that is replaced needs all its values, so set single ones, as in "
            "train.amp.enabled = True"
        )
    # The signal that killed a worker is in the text of the cause.
    loader = _loader_failure(f"{error}\n{error.__cause__}") if isinstance(error, RuntimeError) else None
    if loader is not None:
        return loader
    if "Connection closed by peer" in str(error) or "Connection reset by peer" in str(error):
        return "another process of this run ended; its own message says why"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "a file cannot be written, since no space is left on its disk; free some space, or write to another disk"
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        return (
            f"the name {error.object!r} has characters that the locale's encoding of file names, {error.encoding}, does not "
            "have; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        )
    return None


_SHARED_MEMORY = (
    "pass --shm-size=8g (or --ipc=host) to docker run, mount a larger /dev/shm, or set dataloader.train.num_workers=0 and "
    "dataloader.test.num_workers=0"
)


_WORKER_FAILURE = re.compile(
    r"DataLoader worker \(pid(\(s\))? (?P<pid>[\d, ]+)\) (is killed by signal: (?P<signal>[^.]+)|exited unexpectedly)"
)


def _loader_failure(text: str) -> str | None:
    """Return the one line for a failure of a loader worker as PyTorch describes it; None for another error."""
    if "DataLoader timed out after" in text:
        return (
            "the workers of the loader have delivered no batch for a long time: the storage of the images hangs, or /dev/shm, "
            f"through which they send it, is full; {_SHARED_MEMORY}"
        )
    failures = list(_WORKER_FAILURE.finditer(text))
    found = next((failure for failure in failures if failure["signal"]), *failures[:1]) if failures else None
    if found is None:
        return None
    if "Bus error" in text:
        return f"a loader worker (process {found['pid']}) ended for lack of shared memory, /dev/shm; {_SHARED_MEMORY}"
    how = f"was killed ({found['signal'].strip()})" if found["signal"] else "ended unexpectedly"
    return (
        f"a loader worker (process {found['pid']}) {how}; the usual cause is that the machine has run out of memory: lower "
        "dataloader.train.num_workers, and continue with --resume"
    )


def _without_traceback(text: str) -> str:
    """The message inside ``text``: PyTorch re-raises an error of a loader worker with the worker's traceback as its text."""
    matches = list(re.finditer(r"^flash_internimage\.[\w.]+: ", text, re.MULTILINE))
    return text[matches[-1].end() :].strip() if matches else text


def _first_sentence(text: str) -> str:
    return text.split(". ")[0]
