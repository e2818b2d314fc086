"""The output folder and the log. Nothing is written before a run is known to start."""

from __future__ import annotations

import logging
import logging.handlers
import os
import tempfile
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

_LOGGERS = ("detectron2", "fvcore", "flash_internimage")


class RunLog:
    """Log records go to the terminal of the first process at once, and to ``log.txt`` from :meth:`write_to` on.

    Those before are kept until then.
    """

    def __init__(self) -> None:
        rank = comm.get_rank()
        self._kept = logging.handlers.MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        for name in _LOGGERS:
            setup_logger(distributed_rank=rank, name=name).addHandler(self._kept)

    def write_to(self, folder: str) -> None:
        """Write what was kept, and all that follows, to ``folder/log.txt`` (``log.txt.rank1`` … for other processes)."""
        rank = comm.get_rank()
        handler = logging.FileHandler(Path(folder) / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"), delay=True)
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S"))
        self._kept.setTarget(handler)
        self._kept.flush()
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self._kept)
            logging.getLogger(name).addHandler(handler)


def check_writable(folder: str) -> None:
    """Raise an error if ``folder`` cannot be written to, or made; leave no trace.

    Raises:
        OSError: it cannot; the message names it and the reason.
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
        raise OSError(f"train.output_dir={folder}: cannot be written to ({error.strerror}); choose another folder") from error
