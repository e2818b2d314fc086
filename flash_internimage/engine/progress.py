"""Progress of a run: lines in the log, and a progress bar on a terminal."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from typing import TextIO

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .memory import peak_memory
from .output import LOGGERS

logger = logging.getLogger(__name__)

_WINDOW = 20  # iterations over which values are smoothed
_ETA_WINDOW = 1000
# These come first in the progress bar, which is cut off at the width of the terminal.
_IMPORTANT = ("eta", "total_loss", "images/s", "time", "data_time", "lr", "max_mem")


def progress(storage: EventStorage, max_iter: int, images_per_step: int) -> dict[str, str]:
    """Return the names and formatted values to show, most important first; values that are not measured yet are omitted.

    Args:
        max_iter: iterations of the run.
        images_per_step: batch size over all processes.
    """
    known = storage.histories()
    shown: dict[str, str] = {}
    if "time" in known:
        shown["eta"] = str(datetime.timedelta(seconds=int(_seconds_left(storage, max_iter))))
    shown["iter"] = str(storage.iter)
    losses = [name for name in known if "loss" in name and not name.startswith("validation/")]
    for name in sorted(losses, key=lambda name: name != "total_loss"):
        shown[name] = f"{known[name].median(_WINDOW):.4g}"
    if "time" in known:
        shown["time"] = f"{known['time'].median(_WINDOW):.4f}"
        shown["images/s"] = f"{images_per_step / max(known['time'].median(_WINDOW), 1e-9):.3g}"
    if "data_time" in known:
        shown["data_time"] = f"{known['data_time'].avg(_WINDOW):.4f}"
    if "lr" in known:
        shown["lr"] = f"{known['lr'].latest():.5g}"
    uses_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    peak = peak_memory(torch.device("cuda" if uses_gpu else "cpu"))
    shown["max_mem"] = "nanM" if peak is None else f"{peak / 2**20:.0f}M"
    return shown


def _seconds_left(storage: EventStorage, max_iter: int) -> float:
    return storage.history("time").median(_ETA_WINDOW) * max(max_iter - storage.iter - 1, 0)


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream can show a progress bar: it is a terminal of known size."""
    try:
        return stream.isatty() and min(os.get_terminal_size(stream.fileno())) > 0
    except (OSError, ValueError):
        return False


class ProgressLog(EventWriter):
    """Logs one line per call: ETA, losses, seconds per step, images per second, learning rate, peak memory.

    Args:
        max_iter: iterations of the run.
        images_per_step: batch size over all processes.
    """

    def __init__(self, max_iter: int, images_per_step: int) -> None:
        self._max_iter = max_iter
        self._images_per_step = images_per_step

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self._max_iter:  # the run has ended; only other writers have values left to write
            return
        if "time" in storage.histories():
            storage.put_scalar("eta_seconds", _seconds_left(storage, self._max_iter), smoothing_hint=False)
        shown = progress(storage, self._max_iter, self._images_per_step)
        logger.info("  ".join(f"{name}: {text}" for name, text in shown.items()), extra={"is_progress": True})


class ProgressBar(EventWriter):
    """Shows the same values as a progress bar below the log on a terminal; the log there then omits its progress lines.

    Args:
        max_iter: iterations of the run.
        images_per_step: batch size over all processes.
        stream: the terminal, which is also that of the log: ``sys.stdout`` or ``sys.stderr``.
    """

    def __init__(self, max_iter: int, images_per_step: int, stream: TextIO) -> None:
        self._max_iter = max_iter
        self._images_per_step = images_per_step
        self._stream = stream
        self._bar: tqdm | None = None
        self._redirect = contextlib.ExitStack()

    def write(self) -> None:
        storage = get_event_storage()
        if self._bar is None:
            self._bar = self._open()
        shown = progress(storage, self._max_iter, self._images_per_step)
        self._bar.n = min(storage.iter + 1, self._max_iter)
        shown.pop("iter")
        names = [name for name in _IMPORTANT if name in shown] + [name for name in shown if name not in _IMPORTANT]
        texts = [f"{name} {shown[name]}" for name in names]
        self._bar.set_postfix_str("  ".join(texts), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar in its last state and restore the handlers of the log."""
        if self._bar is None:
            return
        self._redirect.close()
        self._bar.close()
        self._bar = None

    def _open(self) -> tqdm:
        layout = "{percentage:3.0f}%|{bar:10}| {n}/{total}{postfix}"
        bar = tqdm(total=self._max_iter, file=self._stream, bar_format=layout, dynamic_ncols=True, mininterval=0, leave=True)
        loggers = [logging.getLogger(name) for name in LOGGERS]
        loggers = [each for each in loggers if _handlers_writing_to(self._stream, each)]
        self._redirect.enter_context(logging_redirect_tqdm(loggers))
        for each in loggers:
            for handler in _handlers_writing_to(self._stream, each):  # those of tqdm, which are discarded on close
                handler.addFilter(_is_not_progress)
        return bar


def _is_not_progress(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_progress", False)


def _handlers_writing_to(stream: TextIO, logger: logging.Logger) -> list[logging.Handler]:
    return [handler for handler in logger.handlers if getattr(handler, "stream", None) is stream]
