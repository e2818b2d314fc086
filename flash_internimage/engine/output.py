"""Output folder and log of a run; no file is written before the run is certain to start."""

from __future__ import annotations

import logging
import logging.handlers
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from flash_internimage.errors import UserError

LOGGERS = ("detectron2", "fvcore", "flash_internimage")


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
            self._file.close()

    def write_to(self, folder: str) -> None:
        """Write the buffered records, and all later ones, to ``folder/log.txt`` (``log.txt.rank1`` … on other processes)."""
        rank = comm.get_rank()
        self._file = logging.FileHandler(Path(folder) / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"), encoding="utf-8")
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
