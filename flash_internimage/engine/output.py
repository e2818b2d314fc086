"""Output folder and log of a run; a run that fails to start leaves no files."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from flash_internimage.errors import UserError
from flash_internimage.evaluation.training_curves import METRICS_FILE
from flash_internimage.locks import FileLock, LockedError

LOGGERS = ("detectron2", "fvcore", "flash_internimage")
LOCK_FILE = "run.lock"
LAST_EVALUATION_FILE = "last_evaluation"

_CHECKPOINT = re.compile(r"model_(\d{7}|final|best)\.pth")
_OF_A_RUN = re.compile(
    rf"{_CHECKPOINT.pattern}|model_best\.json|last_checkpoint|{LAST_EVALUATION_FILE}|{METRICS_FILE}|events\.out\..*"
)

logger = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    """A log file that stays incomplete when the disk is full; the terminal shows the log, and other writers report it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore the error, instead of printing a traceback for each record."""


class RunLog:
    """Context manager that logs to the main process's terminal and, from :meth:`write_to` on, to ``log.txt``.

    Log records from before :meth:`write_to` are buffered, and then written to the file first.
    """

    def __init__(self) -> None:
        rank = comm.get_rank()
        self._kept = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        self._loggers = [setup_logger(distributed_rank=rank, name=name) for name in LOGGERS]
        self._file: logging.Handler | None = None

    def __enter__(self) -> RunLog:
        self._each(logging.Logger.addHandler, self._kept)
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; records that are still buffered are discarded, since the terminal has shown them."""
        self._each(logging.Logger.removeHandler, self._kept)
        if self._file is not None:
            self._each(logging.Logger.removeHandler, self._file)
            with contextlib.suppress(OSError):  # a full disk
                self._file.close()

    def write_to(self, folder: str) -> None:
        """Write the buffered records, and all later ones, to ``folder/log.txt`` (``log.txt.rank1`` … on other processes)."""
        rank = comm.get_rank()
        self._file = _LogFile(Path(folder) / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"), encoding="utf-8")
        self._file.setFormatter(
            logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
        )
        self._kept.setTarget(self._file)
        self._kept.flush()
        self._each(logging.Logger.removeHandler, self._kept)
        self._each(logging.Logger.addHandler, self._file)

    def _each(self, change: Callable[[logging.Logger, logging.Handler], None], handler: logging.Handler) -> None:
        for logger in self._loggers:
            change(logger, handler)


def check_writable(folder: str) -> None:
    """Raise an exception if a folder cannot be created or written to; leaves no files.

    Raises:
        UserError: the folder is not writable; the message names it and the reason.
    """
    existing = Path(folder).absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(0, f"{existing} is a file")
        with tempfile.TemporaryFile(dir=existing):
            pass
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(0, "permission denied")
    except OSError as error:
        raise UserError(f"train.output_dir={folder}: cannot be written to ({error.strerror}); choose another folder") from error


@contextlib.contextmanager
def locked_folder(folder: str, on_main_process: bool) -> Iterator[None]:
    """Create the output folder and lock it for one run, on the main process; remove it afterwards if it is still empty.

    Raises:
        UserError: another run holds the lock; the message has its process id and host.
    """
    if not on_main_process:
        yield
        return
    created = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    os.makedirs(folder, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(FileLock(Path(folder) / LOCK_FILE))
            except LockedError as error:
                raise UserError(
                    f"train.output_dir={folder}: another run is writing to this folder ({error}); wait for it, stop it, or "
                    "choose another folder"
                ) from error
            yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def require_no_other_run(folder: str) -> None:
    """Raise an exception if a folder holds the checkpoints of another run, which a new run would replace one by one.

    Raises:
        UserError: the folder holds such checkpoints; the message names one of them and the alternatives.
    """
    found = sorted(path.name for path in _files(folder, _CHECKPOINT))
    if found:
        names = ", ".join([*found[:3], *(["…"] if len(found) > 3 else [])])
        raise UserError(
            f"train.output_dir={folder}: holds the checkpoints of another run ({names}); continue it with --resume, delete "
            "them and start anew with --overwrite, or choose another folder"
        )


def require_start_elsewhere(folder: str, checkpoint: str) -> None:
    """Raise an exception if a new run would start from a checkpoint that :func:`remove_other_run` deletes.

    Raises:
        UserError: the checkpoint is one of a run in this folder.
    """
    start = os.path.realpath(checkpoint)
    if any(os.path.realpath(path) == start for path in _files(folder, _OF_A_RUN)):
        raise UserError(
            f"train.init_checkpoint={checkpoint}: belongs to the run that --overwrite deletes; move the file to another "
            "folder, or choose another train.output_dir"
        )


def remove_other_run(folder: str) -> None:
    """Delete checkpoints, metrics and TensorBoard events of another run; its log is continued."""
    for path in _files(folder, _OF_A_RUN):
        path.unlink(missing_ok=True)


def _files(folder: str, pattern: re.Pattern[str]) -> list[Path]:
    return [path for path in Path(folder).iterdir() if pattern.fullmatch(path.name)] if os.path.isdir(folder) else []


def require_state_of_run(state: Mapping[str, Any], folder: str) -> None:
    """Raise an exception if the last checkpoint of a folder has no training state to resume from.

    Args:
        state: contents of the checkpoint other than the model.
        folder: output folder of the run, for messages.

    Raises:
        UserError: the checkpoint contains only weights.
    """
    if "iteration" not in state or "trainer" not in state:
        raise UserError(
            f"--resume: the checkpoint named in {folder}/last_checkpoint contains weights, but no training state; "
            "start from it with train.init_checkpoint=PATH instead"
        )
