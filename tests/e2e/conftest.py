"""Running ``train_net.py``: in this process where that is enough, else as users do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from flash_internimage.data.shapes import annotation_file, write_split
from tests.programs import Result, call, clean_environment

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread, like the programs that ``run_python`` starts: sums depend on it, and tests compare weights bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train_net(capsys, monkeypatch, one_thread) -> Callable[..., Result]:
    """Call ``train_net.main`` here: exit code, stdout and stderr as of a command."""
    import train_net

    monkeypatch.chdir(REPOSITORY)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)

    return lambda *argv: call(train_net.main, argv, capsys)


def run_python(*argv: str, **environment: str) -> Result:
    """Run a Python program in a process of its own, from the root of the checkout."""
    return subprocess.run(
        [sys.executable, *(str(argument) for argument in argv)],
        cwd=REPOSITORY,
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="session")
def own_data(tmp_path_factory) -> Path:
    """A few shapes as a custom dataset: a space in the folder name, gaps in category ids, an image without objects."""
    root = tmp_path_factory.mktemp("e2e") / "own data"
    for split, size in (("train", 6), ("val", 3)):  # the second of the latter has no objects either
        write_split(root, split, size)
        path = annotation_file(root, split)
        content = json.loads(path.read_text())
        new_id = {category["id"]: 7 + 35 * i for i, category in enumerate(content["categories"])}
        for entry in content["categories"]:
            entry["id"] = new_id[entry["id"]]
        for entry in content["annotations"]:
            entry["category_id"] = new_id[entry["category_id"]]
        first_image = content["images"][0]["id"]
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != first_image]
        path.write_text(json.dumps(content))
    return root


def data_overrides(root: Path) -> list[str]:
    """Overrides that point a config at such data."""
    return [
        f"data.train.json={annotation_file(root, 'train')}",
        f"data.train.images={root / 'train'}",
        f"data.test.json={annotation_file(root, 'val')}",
        f"data.test.images={root / 'val'}",
    ]
