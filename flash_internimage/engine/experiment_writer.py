"""What the event writers for experiment trackers share: new values, failures, and the id of a resumed run."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage

from flash_internimage.files import write_atomically

from .stopping import StoppedBySignal

_WINDOW = 20  # iterations over which scalars are smoothed, as in TensorBoard
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_PAUSE_SECONDS = 300.0  # time after a failure without further requests, which would hold the training up

logger = logging.getLogger(__name__)


class ExperimentWriter(EventWriter):
    """Writes scalars and images once each, with their iterations.

    A failure after the start does not end the training: it is logged once, and the values of that time are missing.

    It must come before detectron2's TensorBoard writer, which clears the images after writing them.
    """

    title: ClassVar[str]
    """Name of the tracker, for messages."""

    _last_write = -1
    _failed_at: float | None = None

    @abstractmethod
    def log(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        """Write the values of an iteration.

        Args:
            scalars: smoothed values, by name.
            images: (H, W, 3) ``uint8`` arrays in RGB, by name.
        """

    @abstractmethod
    def end(self, error: BaseException | None) -> None:
        """End the run of the tracker.

        Args:
            error: what ended the training; None at its regular end.
        """

    def close(self) -> None:
        # detectron2's hooks close writers without an argument. After an error, the trainer does so while it handles the error.
        error = sys.exc_info()[1]
        try:
            self.end(error)
        except Exception as failure:
            self._report(failure)

    def write(self) -> None:
        storage = get_event_storage()
        scalars: dict[int, dict[str, float]] = defaultdict(dict)
        images: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_write:
                scalars[iteration][name] = value
        for name, image, iteration in storage._vis_data:  # EventStorage has no public access to its images
            images[iteration][name] = np.moveaxis(np.asarray(image), 0, -1)
        for iteration in sorted({*scalars, *images}):
            self._log_if_possible(iteration, scalars[iteration], images[iteration])
            self._last_write = max(self._last_write, iteration)

    def _log_if_possible(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        if self._failed_at is not None and time.monotonic() - self._failed_at < _PAUSE_SECONDS:
            return
        try:
            self.log(iteration, scalars, images)
        except Exception as error:  # any: trackers have exceptions of their own
            self._report(error)

    def _report(self, error: Exception) -> None:
        if self._failed_at is None:
            logger.warning(
                "%s takes no values (%s); the training continues and tries again after %.0f s, metrics.json has them all",
                self.title,
                reason_of(error),
                _PAUSE_SECONDS,
            )
        self._failed_at = time.monotonic()


def noted_id(note: Path, resumed: bool) -> str | None:
    """Return the id of the tracker's run that a resumed run continues; None for a new one."""
    return note.read_text(encoding="utf-8").strip() if resumed and note.is_file() else None


def note_id(note: Path, run_id: str) -> None:
    """Write the id of the tracker's run into the output folder, for a resume."""
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, lambda path: path.write_text(f"{run_id}\n", encoding="utf-8"))


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line, without credentials in URLs."""
    return textwrap.shorten(_CREDENTIALS.sub("", str(error)).rstrip(". \n"), width=300, placeholder=" ...")


def was_stopped(error: BaseException) -> bool:
    """Return whether an error that has ended a run is a request to stop it, instead of a failure."""
    return isinstance(error, StoppedBySignal | KeyboardInterrupt)
