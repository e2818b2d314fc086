"""Event writer for Weights & Biases."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically

_RUN_FILE = "wandb_run_id"
_WINDOW = 20  # iterations over which scalars are smoothed, as in TensorBoard


def require_wandb() -> ModuleType:
    """Import the package ``wandb``.

    Raises:
        UserError: ``wandb`` is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            f"train.wandb.enabled=true: the package wandb cannot be imported ({error}); install it with `pip install wandb`, "
            "or leave train.wandb.enabled=false"
        ) from error


class WandbWriter(EventWriter):
    """Writes scalars and images to a run of Weights & Biases.

    It must come before detectron2's TensorBoard writer, which clears the images after writing them.

    Args:
        project: W&B project of the run.
        name: display name of the run; None: W&B generates one.
        config: config of the run, shown with it.
        folder: output folder of the run, in which the W&B run id is stored.
        resumed: whether to continue the W&B run whose id is stored in ``folder``, if there is one.

    Raises:
        UserError: ``wandb`` is not installed.
    """

    def __init__(self, project: str, name: str | None, config: Mapping[str, Any], folder: str, resumed: bool) -> None:
        self._wandb = require_wandb()
        note = Path(folder) / _RUN_FILE
        earlier = note.read_text(encoding="utf-8").strip() if resumed and note.is_file() else None
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=project, name=name, config=dict(config), dir=folder, id=earlier, resume="allow" if earlier else None
        )
        write_atomically(note, lambda path: path.write_text(f"{self._run.id}\n", encoding="utf-8"))
        self._last_write = -1

    def write(self) -> None:
        storage = get_event_storage()
        by_iteration: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last_write:
                by_iteration[iteration][name] = value
        for name, image, iteration in storage._vis_data:  # EventStorage has no public access to its images
            by_iteration[iteration][name] = self._wandb.Image(np.moveaxis(np.asarray(image), 0, -1))
        for iteration in sorted(by_iteration):
            self._run.log(by_iteration[iteration], step=iteration)
            self._last_write = max(self._last_write, iteration)

    def close(self) -> None:
        self._run.finish()
