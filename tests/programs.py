"""Calling a program as if it were a command: in this process, or in one that has imported PyTorch already."""

import contextlib
import io
import logging
import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger

Result = subprocess.CompletedProcess


def clean_environment() -> dict[str, str]:
    """The environment without the variables of another launcher, and with one thread, so that two processes share two cores."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def hub_environment(url: str, folder: Path) -> dict[str, str]:
    """The environment in which huggingface_hub asks the server at ``url``, and keeps its files in ``folder``."""
    return {
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
    }


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


def run_code(code: str, *argv: object, environment: Mapping[str, str]) -> Result:
    """Run Python code like ``python -c``, in a process forked from one that has imported torch, which takes seconds.

    Args:
        code: Python code; it imports what reads settings from the environment.
        environment: the complete environment of the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "detectron2.utils.file_io", __name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_execute, args=(code, list(map(str, argv)), dict(environment), sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(120), "the process has not answered within 120 seconds"
        return Result(["python", "-c", *argv], *receiver.recv())
    finally:
        process.kill()
        process.join()


def _execute(code: str, argv: list[str], environment: dict[str, str], sender: Connection) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *argv]
    returncode: object = 0
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        except SystemExit as end:
            returncode = end.code or 0
        except BaseException:
            traceback.print_exc()
            returncode = 1
    sender.send((returncode, output.getvalue(), errors.getvalue()))
