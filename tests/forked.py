"""``train_net.py`` in a forked process, for tests that kill it."""

import logging
import multiprocessing
import os
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from detectron2.utils.logger import setup_logger

from flash_internimage.engine import distributed
from tests.programs import clean_environment

REPOSITORY = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")


def call_main(main: Callable[[], int], errors: Path) -> NoReturn:
    """Call a program's main function in a forked process and exit with its code; stderr is written to a file.

    As in the background of a shell script, SIGINT is ignored. Processes that it starts are forked, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(REPOSITORY)
    for name in set(os.environ) - set(clean_environment()):
        del os.environ[name]
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    setup_logger.cache_clear()  # detectron2 would keep writing to the stdout that it saw first
    for name in ("detectron2", "fvcore", "flash_internimage"):
        logging.getLogger(name).handlers.clear()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.mp = types.SimpleNamespace(get_context=lambda method: FORK)
    sys.exit(main())


class Forked:
    """``train_net.py`` in a forked process, which saves the seconds of the imports.

    Args:
        folder: output folder, which exists.
        arguments: other arguments of the program.
        before: called first in the process.
        errors: file for stderr; by default in ``folder``.
    """

    def __init__(
        self, folder: Path, *arguments: object, before: Callable[[], None] | None = None, errors: Path | None = None
    ) -> None:
        self.errors = errors or folder / "stderr.txt"
        self.errors.write_text("")
        argv = [f"train.output_dir={folder}", *map(str, arguments)]

        def main() -> int:
            import train_net

            if before is not None:
                before()
            return train_net.main(argv)

        self.process = FORK.Process(target=call_main, args=(main, self.errors))
        self.process.start()
        self.pid = self.process.pid

    def finish(self, seconds: float = 90) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was written to stderr."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        return self.process.exitcode, self.errors.read_text()


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
