"""The ClearML writer with ClearML's offline mode if it is installed, with a fake ``clearml``, and the error without it."""

import json
import logging
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine import experiment_writer
from flash_internimage.engine.clearml_writer import ClearMLWriter
from flash_internimage.engine.stopping import StoppedBySignal
from flash_internimage.errors import UserError
from tests.programs import clean_environment, run_code

needs_clearml = pytest.mark.skipif(find_spec("clearml") is None, reason="needs clearml")

OFFLINE = """
import random, signal, sys
import numpy as np
import torch
from detectron2.utils.events import EventStorage
from flash_internimage.engine.clearml_writer import ClearMLWriter

stop = lambda *_: None
signal.signal(signal.SIGTERM, stop)
random.seed(5), np.random.seed(5), torch.manual_seed(5)
writer = ClearMLWriter("shapes", "first", {"train": {"max_iter": 8}}, sys.argv[1], False)
assert signal.getsignal(signal.SIGTERM) is stop
drawn = random.random(), np.random.rand(), torch.rand(1).item()
random.seed(5), np.random.seed(5), torch.manual_seed(5)
assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
assert not torch.backends.cudnn.deterministic
with EventStorage(0) as storage:
    storage.put_scalar("total_loss", 3.0)
    writer.write()
    storage.step()
    storage.put_scalar("bbox/AP-US$ fork", 40.0, smoothing_hint=False)
    storage.put_image("validation/1", np.zeros((3, 20, 30), np.uint8))
    writer.write()
folder = writer._task.get_offline_mode_folder()
writer.close()
print(folder)
"""

UNREACHABLE = """
import sys
from flash_internimage.engine.clearml_writer import ClearMLWriter
from flash_internimage.errors import UserError

try:
    ClearMLWriter("shapes", None, {}, sys.argv[1], False)
except UserError as error:
    print(error)
"""


def environment(folder, **variables):
    return {**clean_environment(), "HOME": str(folder), "CLEARML_CACHE_DIR": str(folder / "cache"), **variables}


@needs_clearml
def test_scalars_images_and_config_are_in_the_offline_session(tmp_path):
    done = run_code(OFFLINE, tmp_path / "out", environment=environment(tmp_path, CLEARML_OFFLINE_MODE="1"))
    assert done.returncode == 0, done.stderr
    session = Path(done.stdout.strip().splitlines()[-1])
    events = [event for line in (session / "metrics.jsonl").read_text().splitlines() for event in json.loads(line)]
    scalars = [(e["metric"], e["variant"], e["iter"], e["value"]) for e in events if e["type"] == "training_stats_scalar"]
    assert scalars == [("total_loss", "total_loss", 0, 3.0), ("bbox", "AP-US$ fork", 1, 40.0)]
    (image,) = [e for e in events if e["type"] == "training_debug_image"]
    assert (image["metric"], image["variant"], image["iter"]) == ("validation", "1", 1)
    assert Path(image["url"]).stat().st_size > 0
    task = json.loads((session / "task.json").read_text())
    assert (task["project_name"], task["name"]) == ("shapes", "first")
    assert task["id"] == (tmp_path / "out/clearml_task_id").read_text().strip()
    assert "max_iter = 8" in task["configuration"]["config"]["value"]
    assert not task.get("script", {}).get("diff")  # neither the program nor its uncommitted changes


@needs_clearml
def test_server_that_cannot_be_reached_is_one_sentence(tmp_path):
    server = {"CLEARML_API_HOST": "http://127.0.0.1:9", "CLEARML_API_ACCESS_KEY": "me", "CLEARML_API_SECRET_KEY": "secret"}
    done = run_code(UNREACHABLE, tmp_path / "out", environment=environment(tmp_path, **server))
    assert done.returncode == 0, done.stderr
    message = done.stdout.strip().splitlines()[-1]
    assert message.startswith("train.clearml: ClearML cannot start the task (")
    assert "127.0.0.1" in message
    assert "secret" not in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def fake(monkeypatch):
    """A ``clearml`` that is offline, and whose task accepts every call and records it."""
    module = MagicMock()
    module.Task.init.return_value.id = "abc123"
    monkeypatch.setitem(sys.modules, "clearml", module)
    return module


def writer(folder, resumed=False):
    return ClearMLWriter("shapes", "first", {"max_iter": 8}, str(folder), resumed)


def test_not_installed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "clearml", None)
    with pytest.raises(UserError, match=r"needs clearml, .* pip install clearml \(the extra \[clearml\]\)"):
        writer(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_resumed_run_continues_its_task(tmp_path, fake):
    writer(tmp_path)
    assert fake.Task.init.call_args.kwargs["continue_last_task"] is False
    writer(tmp_path, resumed=True)
    assert fake.Task.init.call_args.kwargs["continue_last_task"] == "abc123"
    task = fake.Task.init.return_value
    task.set_initial_iteration.assert_called_with(0)
    task.connect_configuration.assert_called_once()
    writer(tmp_path)
    assert fake.Task.init.call_args.kwargs["continue_last_task"] is False


def test_failure_at_the_start_is_one_sentence(tmp_path, fake):
    fake.Task.init.side_effect = ValueError("no answer from http://me:secret@127.0.0.1:9\nwith a long story")
    with pytest.raises(UserError, match="no answer from http://127.0.0.1:9 with a long story") as raised:
        writer(tmp_path / "out")
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_lost_server_does_not_end_the_training(tmp_path, fake, caplog, monkeypatch):
    monkeypatch.setattr(experiment_writer, "_PAUSE_SECONDS", 0.0)
    task = fake.Task.init.return_value
    written = writer(tmp_path)
    task.get_logger.return_value.report_scalar.side_effect = OSError("no answer")
    task.close.side_effect = OSError("no answer")
    with caplog.at_level(logging.WARNING):
        for iteration in range(2):
            with EventStorage(iteration) as storage:
                storage.put_scalar("total_loss", 3.0)
                written.write()
        written.close()
    (record,) = caplog.records
    assert record.getMessage().startswith("ClearML takes no values (no answer); the training continues")


@pytest.mark.parametrize(
    ("error", "called"),
    [
        (None, None),
        (UserError("NaN loss"), "mark_failed"),
        (StoppedBySignal(signal.SIGTERM, 3), "mark_stopped"),
        (KeyboardInterrupt(), "mark_stopped"),
    ],
)
def test_status_says_how_the_run_ended(tmp_path, fake, error, called):
    task = fake.Task.init.return_value
    writer(tmp_path).end(error)
    marks = [name for name in ("mark_failed", "mark_stopped") if getattr(task, name).called]
    assert marks == ([] if called is None else [called])
    task.close.assert_called_once()
