"""The demo as modules. Its folder is on the path only while they are imported, as when it is run."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def demo_modules() -> dict[str, ModuleType]:
    folder = str(Path(__file__).resolve().parents[2] / "demo")
    sys.path.insert(0, folder)
    try:
        return {name: importlib.import_module(name) for name in ("demo", "detections", "sources", "video")}
    finally:
        sys.path.remove(folder)
