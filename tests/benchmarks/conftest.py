"""The benchmarks import each other by name, as programs of one folder."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def benchmark_module(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of the folder benchmarks."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    return importlib.import_module
