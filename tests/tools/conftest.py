"""The programs in tools import each other by name, as files of one folder."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of the folder tools."""
    monkeypatch.syspath_prepend(str(repository / "tools"))
    return importlib.import_module
