"""What the event writers for experiment trackers share: which values are new, and the id of a resumed run."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage

from flash_internimage.files import write_atomically

_WINDOW = 20  # iterations over which scalars are smoothed, as in TensorBoard


class ExperimentWriter(EventWriter):
    """Writes scalars and images once each, with their iterations.

    It must come before detectron2's TensorBoard writer, which clears the images after writing them.
    """

    _last_write = -1

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
        self.end(sys.exc_info()[1])

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
            self.log(iteration, scalars[iteration], images[iteration])
            self._last_write = max(self._last_write, iteration)


def noted_id(note: Path, resumed: bool) -> str | None:
    """Return the id of the tracker's run that a resumed run continues; None for a new one."""
    return note.read_text(encoding="utf-8").strip() if resumed and note.is_file() else None


def note_id(note: Path, run_id: str) -> None:
    """Write the id of the tracker's run into the output folder, for a resume."""
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, lambda path: path.write_text(f"{run_id}\n", encoding="utf-8"))
