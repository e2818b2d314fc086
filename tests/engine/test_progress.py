"""The line that says how a run is going: in the log, and at the bottom of a terminal."""

import io
import logging
import re

import pytest
from detectron2.utils.events import EventStorage

from flash_internimage.engine import progress as module
from flash_internimage.engine.progress import ProgressLog, TerminalLine, is_terminal, progress


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


def test_what_is_known():
    with EventStorage(0) as storage:
        assert list(progress(storage, 10, 4)) == ["iter", "max_mem"]
    found = progress(run(), 10, 4)
    assert list(found) == ["eta", "iter", "total_loss", "loss_box", "time", "images/s", "data_time", "lr", "max_mem"]
    assert found["eta"] == "0:00:02"  # five steps of half a second
    assert found["total_loss"] == "1.5"
    assert found["images/s"] == "8"
    assert found["lr"] == "0.001"
    assert float(found["max_mem"].removesuffix("M")) > 10


def test_log_has_a_line_each_time(caplog):
    with caplog.at_level(logging.INFO, logger="flash_internimage"):
        storage = run(ProgressLog(10, 4), steps=2)
    assert [re.search(r"iter: (\d)", record.message)[1] for record in caplog.records] == ["0", "1"]
    assert caplog.records[0].message.startswith(
        "eta: 0:00:04  iter: 0  total_loss: 3  loss_box: 1  time: 0.5000  images/s: 8  "
    )
    assert storage.latest()["eta_seconds"] == (4.0, 1)


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that the log writes to as well."""
    stream = Terminal()
    logger = logging.getLogger("flash_internimage")
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    return stream


def lines(stream):
    """What a terminal shows in the end: of what stands between two line ends, what was written last."""
    return [line.rstrip("\r").split("\r")[-1].rstrip() for line in stream.getvalue().split("\n")]


def test_terminal_line_stays_below_the_log(terminal):
    line = TerminalLine(10, 4, terminal)
    log = logging.getLogger("flash_internimage.test")

    class Logging:
        def write(self):
            log.info("in between")

    run(ProgressLog(10, 4), line, Logging(), steps=3)
    line.close()
    log.info("afterwards")
    shown = lines(terminal)
    assert shown[0].startswith("eta: 0:00:04  iter: 0")  # before the line was there
    assert shown[1:4] == ["in between"] * 3
    assert " 3/10, eta 0:00:03  total_loss 2  images/s 8  time 0.5000" in shown[4]
    assert shown[5:] == ["afterwards", ""]
    assert "iter: 1" not in terminal.getvalue()


def test_log_is_as_before_when_the_line_is_closed(terminal):
    handler = logging.getLogger("flash_internimage").handlers[0]
    line = TerminalLine(10, 4, terminal)
    run(line)
    assert handler.stream is not terminal
    line.close()
    line.close()
    assert handler.stream is terminal
    assert handler.filters == []


def test_only_a_terminal_of_known_size_has_a_line(monkeypatch):
    assert not is_terminal(io.StringIO())
    stream = Terminal()
    assert not is_terminal(stream)  # it has no file number
    monkeypatch.setattr(stream, "fileno", lambda: 1, raising=False)
    for size, expected in (((120, 40), True), ((120, 0), False)):
        monkeypatch.setattr(module.os, "get_terminal_size", lambda number, size=size: size)
        assert is_terminal(stream) is expected
