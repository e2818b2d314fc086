"""Calling a program in this process, as if it were a command."""

import logging
import os
import subprocess
from collections.abc import Callable, Sequence

import pytest
from detectron2.utils.logger import setup_logger

Result = subprocess.CompletedProcess


def clean_environment() -> dict[str, str]:
    """The environment without the variables of another launcher, and with one thread, so that two processes share two cores."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def call(main: Callable[[Sequence[str]], int | None], argv: Sequence[object], capsys: pytest.CaptureFixture) -> Result:
    """Call the main function of a program; return its exit code, stdout and stderr."""
    setup_logger.cache_clear()  # detectron2 would keep writing to the stdout that it saw first
    for name in ("detectron2", "fvcore", "flash_internimage"):
        logging.getLogger(name).handlers.clear()
    capsys.readouterr()
    arguments = [str(argument) for argument in argv]
    try:
        code = main(arguments) or 0
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    return Result(arguments, code, output.out, output.err)
