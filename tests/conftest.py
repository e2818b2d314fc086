"""Fixtures and markers shared by all tests.

Tests marked ``gpu`` need a CUDA device and are skipped without one.
Every test starts from the same random seeds, and the states of the random number generators are restored after it.

This file imports neither detectron2 nor what it needs, so that the operator tests run with torch, torchvision, pytest and
hypothesis alone.
"""

import os
import random
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.reference import Reference

os.environ.setdefault("MPLBACKEND", "Agg")

# By default the examples are derived from the test's name, so that runs are repeatable; HYPOTHESIS_PROFILE=explore draws new
# ones. Deadlines are disabled because they would fail on a busy machine.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

DEVICES = [
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(torch.device("cuda"), id="cuda", marks=pytest.mark.gpu),
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Distribute tests over processes as ``tests/scheduling.py`` says, with the options of ``make test``."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.scheduling import UnitScheduling

    config.option.loadscopereorder = False
    return UnitScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Accept the setting ``timeout`` of pyproject.toml where pytest-timeout, which reads it, is not installed."""
    if find_spec("pytest_timeout") is None:
        parser.addini("timeout", "seconds per test; without effect because pytest-timeout is not installed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` if there is no CUDA device; in a process of pytest-xdist, start with the longest tests."""
    if hasattr(config, "workerinput"):
        from tests.scheduling import longest_first

        longest_first(items)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU and, if there is one, the first CUDA device."""
    return request.param


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """Seed the generators of random, NumPy and torch before a test, and restore their states after it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Stored results of MMDetection and OpenGVLab/DCNv4; see ``tests/reference/README.md``."""
    return Reference(Path(__file__).resolve().parent / "reference")


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of ``configs/shapes/mask_rcnn_flash_internimage_nano.py`` with random weights and three named classes.

    Its detections have scores near 0.25 and boxes all over the image, which suffices to test what is done with detections.
    """
    from detectron2.config import instantiate

    from flash_internimage import model_zoo
    from flash_internimage.checkpoint import Checkpointer
    from flash_internimage.data import Categories

    cfg = model_zoo.get_config("mask_rcnn_flash_internimage_nano")
    cfg.model.roi_heads.num_classes = 3
    torch.manual_seed(0)
    checkpointer = Checkpointer(instantiate(cfg.model), str(tmp_path_factory.mktemp("nano")))
    checkpointer.add_checkpointable("classes", Categories.from_names(["mug", "spoon", "US$ fork"]))
    checkpointer.save("model")
    return Path(checkpointer.save_dir) / "model.pth"


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget the graphs that ``torch.compile`` has made for other tests, which count towards the limit of one function."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Receive SIGINT as in the foreground: a process in the background of a script ignores it, and so do its children."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
