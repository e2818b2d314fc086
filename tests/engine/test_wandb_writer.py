"""The Weights & Biases writer, with a fake ``wandb``, and the error without it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine.wandb_writer import WandbWriter
from flash_internimage.errors import UserError


class FakeWandb:
    """The used part of ``wandb``: records its calls, and rejects decreasing steps as the real one does."""

    def __init__(self):
        self.started, self.logged, self.finished = [], [], []

    def init(self, *, project, name, config, dir, id, resume):
        self.started.append({"project": project, "name": name, "config": config, "id": id, "resume": resume})
        return SimpleNamespace(id=id or "abc123", log=self.log, finish=self.finish)

    def log(self, values, *, step):
        assert not self.logged or step >= self.logged[-1][0]
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.finished.append(exit_code)

    def Image(self, image):
        return image.shape


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def writer(folder, resumed=False):
    return WandbWriter("shapes", "first", {"max_iter": 8}, str(folder), resumed)


def test_scalars_and_images_are_written_once(wandb, tmp_path):
    written = writer(tmp_path)
    with EventStorage(0) as storage:
        storage.put_scalar("total_loss", 3.0)
        written.write()
        storage.step()
        storage.put_scalar("bbox/AP", 40.0, smoothing_hint=False)
        storage.put_image("validation/1", np.zeros((3, 20, 30), np.uint8))
        written.write()
    written.close()
    assert wandb.logged == [(0, {"total_loss": 3.0}), (1, {"bbox/AP": 40.0, "validation/1": (20, 30, 3)})]
    assert wandb.finished == [0]


def test_failed_run_is_not_finished(wandb, tmp_path):
    writer(tmp_path).end(UserError("NaN loss"))
    assert wandb.finished == [1]


def test_resumed_run_keeps_its_id(wandb, tmp_path):
    writer(tmp_path)
    writer(tmp_path, resumed=True)
    writer(tmp_path, resumed=False)
    assert [(run["id"], run["resume"]) for run in wandb.started] == [(None, None), ("abc123", "allow"), (None, None)]
    assert wandb.started[0]["config"] == {"max_iter": 8}


def test_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="train.wandb.enabled=true needs wandb, which is not installed; pip install wandb"):
        writer(tmp_path / "out")
    assert not (tmp_path / "out").exists()
