"""Calling ``flash-internimage`` in this process, and an evaluation for the commands that show one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_internimage.cli.main import main
from tests.evaluation.drawn import evaluate_drawn_shapes
from tests.programs import Result, call, clean_environment


@pytest.fixture
def flash_internimage(
    repository: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Call the program from the root of the checkout: ``flash_internimage("train", "--config-file", path)``."""
    monkeypatch.chdir(repository)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    return lambda *argv: call(main, argv, capsys)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of an evaluation, with its data beside it."""
    return evaluate_drawn_shapes(tmp_path_factory.mktemp("evaluated"))
