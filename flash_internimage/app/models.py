"""The detectors that the page offers, one of them loaded at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

from flash_internimage import model_zoo
from flash_internimage.inference import Predictor

from .detection import LOWEST_SCORE


class Models:
    """Loads the chosen detector when it is first used, and keeps it until another is chosen.

    Args:
        loaders: for each name a function that loads the detector.
    """

    def __init__(self, loaders: Mapping[str, Callable[[], Predictor]]) -> None:
        self._loaders = dict(loaders)
        self._lock = threading.Lock()  # the page calls from several threads
        self._loaded: tuple[str, Predictor] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the detectors, the first one is shown first."""
        return list(self._loaders)

    def get(self, name: str) -> Predictor:
        """Return a detector, which is loaded if it is not the current one.

        Raises:
            UserError: it cannot be downloaded or loaded.
        """
        with self._lock:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None  # large detectors may not fit in memory together
                self._loaded = (name, self._loaders[name]())
            return self._loaded[1]


def published_models() -> dict[str, Callable[[], Predictor]]:
    """Return loaders of the published detectors, which download their checkpoints on first use."""
    return {name: partial(Predictor, name, min_score=LOWEST_SCORE) for name in model_zoo.list()}
