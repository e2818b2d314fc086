"""Running ``train_net.py``: in this process where that is enough, else as users do."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from detectron2.utils.logger import setup_logger

Result = subprocess.CompletedProcess


def clean_environment() -> dict[str, str]:
    """The environment without another launcher's variables, and with one thread, so that two processes share two cores."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.fixture
def train_net(capsys, monkeypatch, repository) -> Callable[..., Result]:
    """Call ``train_net.main`` here: exit code, stdout and stderr as of a command."""
    import train_net

    monkeypatch.chdir(repository)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)

    def call(*argv: str) -> Result:
        code = 0
        capsys.readouterr()
        setup_logger.cache_clear()  # detectron2 keeps writing to the stdout that it saw first
        for name in ("detectron2", "fvcore", "flash_internimage"):
            logging.getLogger(name).handlers.clear()
        try:
            train_net.main([str(argument) for argument in argv])
        except SystemExit as error:
            code = error.code
        output = capsys.readouterr()
        return Result(argv, code, output.out, output.err)

    return call


@pytest.fixture
def command(repository) -> Callable[..., Result]:
    """Run a Python program in a process of its own."""

    def call(*argv: str, **environment: str) -> Result:
        return subprocess.run(
            [sys.executable, *(str(argument) for argument in argv)],
            cwd=repository,
            env={**clean_environment(), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return call
