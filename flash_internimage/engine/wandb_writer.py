"""Event writer for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flash_internimage.packages import require

from .experiment_writer import ExperimentWriter, note_id, noted_id

_RUN_FILE = "wandb_run_id"


class WandbWriter(ExperimentWriter):
    """Writes scalars and images to a run of Weights & Biases.

    Args:
        project: W&B project of the run.
        name: display name of the run; None: W&B generates one.
        config: config of the run, shown with it.
        folder: output folder of the run, in which the W&B run id is stored.
        resumed: whether to continue the W&B run whose id is stored in ``folder``, if there is one.

    Raises:
        UserError: ``wandb`` is not installed.
    """

    title = "Weights & Biases"

    def __init__(self, project: str, name: str | None, config: Mapping[str, Any], folder: str, resumed: bool) -> None:
        self._wandb = require("wandb", "train.wandb.enabled=true")
        note = Path(folder) / _RUN_FILE
        earlier = noted_id(note, resumed)
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(
            project=project, name=name, config=dict(config), dir=folder, id=earlier, resume="allow" if earlier else None
        )
        note_id(note, self._run.id)

    def log(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        logged_images = {name: self._wandb.Image(image) for name, image in images.items()}
        self._run.log({**scalars, **logged_images}, step=iteration)

    def end(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)
