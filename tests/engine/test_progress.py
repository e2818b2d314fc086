"""Progress of a run: lines in the log, and the progress bar on a terminal."""

import io
import logging
import re
import sys

import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine import progress as module
from flash_internimage.engine.progress import ProgressBar, ProgressLog, is_terminal, progress


class Terminal(io.StringIO):
    """A terminal of 120 columns."""

    def isatty(self):
        return True


def run(*writers, steps=4, max_iter=10):
    with EventStorage(0) as storage:
        for step in range(steps):
            storage.put_scalars(loss_box=1.0, total_loss=3.0 - step)
            storage.put_scalar("time", 0.5)
            storage.put_scalar("data_time", 0.02)
            storage.put_scalar("lr", 1e-3, smoothing_hint=False)
            for writer in writers:
                writer.write()
            storage.step()
        return storage


def test_progress_omits_values_that_are_not_measured_yet():
    with EventStorage(0) as storage:
        assert list(progress(storage, 10, 4)) == ["iter", "max_mem"]
    shown = progress(run(), 10, 4)
    assert list(shown) == ["eta", "iter", "total_loss", "loss_box", "time", "images/s", "data_time", "lr", "max_mem"]
    assert shown["eta"] == "0:00:02"  # five steps of half a second
    assert shown["total_loss"] == "1.5"
    assert shown["images/s"] == "8"
    assert shown["lr"] == "0.001"
    assert float(shown["max_mem"].removesuffix("M")) > 10


def test_log_has_one_line_per_call(caplog):
    with caplog.at_level(logging.INFO, logger="flash_internimage"):
        storage = run(ProgressLog(10, 4), steps=2)
    assert [re.search(r"iter: (\d)", record.message)[1] for record in caplog.records] == ["0", "1"]
    assert caplog.records[0].message.startswith(
        "eta: 0:00:04  iter: 0  total_loss: 3  loss_box: 1  time: 0.5000  images/s: 8  "
    )
    assert storage.latest()["eta_seconds"] == (4.0, 1)


@pytest.fixture
def terminal(monkeypatch):
    """A terminal to which the log is written."""
    stream = Terminal()
    logger = logging.getLogger("flash_internimage")
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    return stream


def lines(stream):
    """Return the lines that a terminal shows: the text after the last carriage return of each line."""
    return [line.rstrip("\r").split("\r")[-1].rstrip() for line in stream.getvalue().split("\n")]


def test_progress_bar_stays_below_the_log(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal)  # not in the fixture: pytest replaces stdout after the setup
    bar = ProgressBar(10, 4, terminal)
    log = logging.getLogger("flash_internimage.test")

    class Logging:
        def write(self):
            log.info("in between")

    run(ProgressLog(10, 4), bar, Logging(), steps=3)
    bar.close()
    log.info("afterwards")
    shown = lines(terminal)
    assert shown[0].startswith("eta: 0:00:04  iter: 0")  # before the bar is shown
    assert shown[1:4] == ["in between"] * 3
    assert " 3/10, eta 0:00:03  total_loss 2  images/s 8  time 0.5000" in shown[4]
    assert shown[5:] == ["afterwards", ""]
    assert "iter: 1" not in terminal.getvalue()


def test_log_is_restored_when_the_bar_is_closed(terminal, monkeypatch):
    logger = logging.getLogger("flash_internimage")
    before = list(logger.handlers)
    handler = before[0]
    monkeypatch.setattr(sys, "stdout", terminal)  # not in the fixture: pytest replaces stdout after the setup
    bar = ProgressBar(10, 4, terminal)
    run(bar)
    assert handler not in logger.handlers
    bar.close()
    bar.close()
    assert logger.handlers == before
    assert handler.stream is terminal
    assert handler.filters == []


def test_log_file_keeps_the_progress_lines(terminal, monkeypatch, tmp_path):
    file = logging.FileHandler(tmp_path / "log.txt")
    logging.getLogger("flash_internimage").handlers.append(file)
    monkeypatch.setattr(sys, "stdout", terminal)  # not in the fixture: pytest replaces stdout after the setup
    bar = ProgressBar(10, 4, terminal)
    run(ProgressLog(10, 4), bar, steps=3)
    bar.close()
    file.close()
    assert re.findall(r"iter: (\d)", (tmp_path / "log.txt").read_text()) == ["0", "1", "2"]


def test_only_a_terminal_of_known_size_has_a_progress_bar(monkeypatch):
    assert not is_terminal(io.StringIO())
    stream = Terminal()
    assert not is_terminal(stream)  # it has no file descriptor
    monkeypatch.setattr(stream, "fileno", lambda: 1, raising=False)
    for size, expected in (((120, 40), True), ((120, 0), False)):
        monkeypatch.setattr(module.os, "get_terminal_size", lambda number, size=size: size)
        assert is_terminal(stream) is expected
