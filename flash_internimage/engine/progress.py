"""How a run is going, in one line: plain lines in a log, and on a terminal one that stays at its bottom."""

from __future__ import annotations

import datetime
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from tqdm import tqdm

from .output import LOGGERS

logger = logging.getLogger(__name__)

_WINDOW = 20  # iterations over which figures are smoothed
_ETA_WINDOW = 1000
# What comes first on a terminal, where a line that is too long is cut.
_IMPORTANT = ("eta", "total_loss", "images/s", "time", "data_time", "lr", "max_mem")


def progress(storage: EventStorage, max_iter: int, images_a_step: int) -> dict[str, str]:
    """Name and text of what is known of a run, the most important first; what is not measured yet is left out.

    Args:
        images_a_step: over all processes.
    """
    known = storage.histories()
    found: dict[str, str] = {}
    if "time" in known:
        found["eta"] = str(datetime.timedelta(seconds=int(_seconds_left(storage, max_iter))))
    found["iter"] = str(storage.iter)
    losses = [name for name in known if "loss" in name]
    for name in sorted(losses, key=lambda name: name != "total_loss"):
        found[name] = f"{known[name].median(_WINDOW):.4g}"
    if "time" in known:
        found["time"] = f"{known['time'].median(_WINDOW):.4f}"
        found["images/s"] = f"{images_a_step / max(known['time'].median(_WINDOW), 1e-9):.3g}"
    if "data_time" in known:
        found["data_time"] = f"{known['data_time'].avg(_WINDOW):.4f}"
    if "lr" in known:
        found["lr"] = f"{known['lr'].latest():.5g}"
    found["max_mem"] = f"{peak_memory():.0f}M"
    return found


def _seconds_left(storage: EventStorage, max_iter: int) -> float:
    return storage.history("time").median(_ETA_WINDOW) * max(max_iter - storage.iter - 1, 0)


def is_terminal(stream: TextIO) -> bool:
    """Whether a line can stay at the bottom of it: it is a terminal, and its size is known."""
    try:
        return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False


def peak_memory() -> float:
    """The most memory so far, in MiB: of the GPU where one is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class ProgressLog(EventWriter):
    """A line of the log each time: time left, losses, seconds a step, images a second, rate, memory.

    Args:
        max_iter: iterations of the run.
        images_a_step: over all processes.
    """

    def __init__(self, max_iter: int, images_a_step: int) -> None:
        self._max_iter = max_iter
        self._images_a_step = images_a_step

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # the run has ended; only other writers have something left to write
            return
        if "time" in storage.histories():
            storage.put_scalar("eta_seconds", _seconds_left(storage, self._max_iter), smoothing_hint=False)
        found = progress(storage, self._max_iter, self._images_a_step)
        logger.info("  ".join(f"{name}: {text}" for name, text in found.items()), extra={"is_progress": True})


class TerminalLine(EventWriter):
    """The same as one line that stays at the bottom of a terminal, below the log, which leaves out its own such lines.

    Args:
        max_iter: iterations of the run.
        images_a_step: over all processes.
        stream: the terminal, to which the log is written too.
    """

    def __init__(self, max_iter: int, images_a_step: int, stream: TextIO) -> None:
        self._max_iter = max_iter
        self._images_a_step = images_a_step
        self._stream = stream
        self._bar: tqdm | None = None
        self._handlers: list[logging.StreamHandler] = []

    def write(self) -> None:
        storage = get_event_storage()
        if self._bar is None:
            self._open()
        found = progress(storage, self._max_iter, self._images_a_step)
        self._bar.n = min(storage.iter + 1, self._max_iter)
        found.pop("iter")
        names = [name for name in _IMPORTANT if name in found] + [name for name in found if name not in _IMPORTANT]
        texts = [f"{name} {found[name]}" for name in names]
        self._bar.set_postfix_str("  ".join(texts), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Leave the line as it is, and the log as it was."""
        if self._bar is None:
            return
        for handler in self._handlers:
            handler.setStream(self._stream)
            handler.removeFilter(_is_not_progress)
        self._bar.close()
        self._bar = None

    def _open(self) -> None:
        layout = "{percentage:3.0f}%|{bar:10}| {n}/{total}{postfix}"
        self._bar = tqdm(
            total=self._max_iter, file=self._stream, bar_format=layout, dynamic_ncols=True, mininterval=0, leave=True
        )
        self._handlers = [handler for handler in _handlers() if handler.stream is self._stream]
        for handler in self._handlers:
            handler.setStream(_AboveLine(self._stream))
            handler.addFilter(_is_not_progress)


class _AboveLine:
    """A stream that clears the line at the bottom, writes, and draws the line again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with tqdm.external_write_mode(file=self._stream):
            self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def _is_not_progress(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_progress", False)


def _handlers() -> Iterator[logging.StreamHandler]:
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                yield handler
