"""Fixtures and markers that every test may use.

``gpu`` marks a test that needs a CUDA device and skips itself where there is none. Whatever a test does to the random
number generators is undone after it, and each test starts from the same seed.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.reference import Reference

os.environ.setdefault("MPLBACKEND", "Agg")

# Examples are derived from the test's name, so that a run can be repeated; HYPOTHESIS_PROFILE=explore draws new ones.
# A deadline would measure how busy the machine is.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

DEVICES = [
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(torch.device("cuda"), id="cuda", marks=pytest.mark.gpu),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU and, where there is one, the first CUDA device."""
    return request.param


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    """Seed the three generators before a test and restore their states after it."""
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
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The stored numbers of the original implementation (``tests/reference/README.md``)."""
    return Reference(Path(__file__).resolve().parent / "reference")


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of ``configs/shapes/mask_rcnn_flash_internimage_nano.py``, as a run of three classes would save them.

    Most scores lie near a quarter, and boxes everywhere: enough to look at what is done with detections.
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
