"""Writers of metrics: files of killed runs, and full disks."""

import json
import threading

import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine.writers import MetricsWriter, TensorBoardWriter
from flash_internimage.errors import UserError


def write_metrics(path):
    with EventStorage(7) as storage:
        storage.put_scalar("loss", 1.0)
        writer = MetricsWriter(path)
        writer.write()
        writer.close()


@pytest.mark.parametrize("left", ['{"iteration": 3}\n', '{"iteration": 3}\n{"iterat', '{"iter', ""])
def test_record_after_an_incomplete_line_is_readable(tmp_path, left):
    path = tmp_path / "metrics.json"
    path.write_text(left)
    write_metrics(path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records == [*([{"iteration": 3}] if "\n" in left else []), {"iteration": 7, "loss": 1.0}]


def test_metrics_on_a_full_disk(tmp_path):
    (tmp_path / "metrics.json").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"metrics.json: cannot be written, since no space is left on the disk \(0.0 MiB were"):
        write_metrics(tmp_path / "metrics.json")


def test_tensorboard_on_a_full_disk(tmp_path, monkeypatch, capfd):
    writer = TensorBoardWriter(str(tmp_path))
    events = writer._writer.file_writer.event_writer._async_writer

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events._writer, "write", full)
    with EventStorage(7) as storage:
        storage.put_scalar("loss", 1.0)
        writer.write()
        events._worker.join()
        storage.iter = 8
        storage.put_scalar("loss", 1.0)
        with pytest.raises(UserError, match=r"events.out.tfevents.*: cannot be written, since no space is left on the disk"):
            writer.write()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook.__module__ == "flash_internimage.engine.writers"
