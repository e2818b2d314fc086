"""Event writer for MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flash_internimage.packages import require

from .experiment_writer import ExperimentWriter, note_id, noted_id

_RUN_FILE = "mlflow_run_id"
_REFUSED = re.compile(r"[^\w\-. /:]")  # characters that MLflow does not allow in the name of a metric
_BATCH = 1000  # metrics per request, MLflow's limit


class MLflowWriter(ExperimentWriter):
    """Writes scalars and images to a run of MLflow.

    Args:
        experiment: MLflow experiment of the run, which is created if it does not exist.
        name: name of the run; None: MLflow generates one.
        tracking_uri: server or folder of MLflow; None: its own default, such as ``MLFLOW_TRACKING_URI``.
        config: config of the run, stored as ``config.json``.
        folder: output folder of the run, in which the MLflow run id is stored.
        resumed: whether to continue the MLflow run whose id is stored in ``folder``, if there is one.

    Raises:
        UserError: ``mlflow`` is not installed.
    """

    def __init__(
        self,
        experiment: str,
        name: str | None,
        tracking_uri: str | None,
        config: Mapping[str, Any],
        folder: str,
        resumed: bool,
    ) -> None:
        mlflow = require("mlflow", "train.mlflow.enabled=true")
        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient(tracking_uri)
        note = Path(folder) / _RUN_FILE
        earlier = noted_id(note, resumed)
        if earlier is None:
            found = self._client.get_experiment_by_name(experiment)
            number = self._client.create_experiment(experiment) if found is None else found.experiment_id
            self._run_id = self._client.create_run(number, run_name=name).info.run_id
            self._client.log_dict(self._run_id, dict(config), "config.json")
            note_id(note, self._run_id)
        else:
            self._run_id = earlier
            self._client.update_run(earlier, status="RUNNING")

    def log(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(_REFUSED.sub("_", name), float(value), now, iteration) for name, value in scalars.items()]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _BATCH])
        for name, image in images.items():
            self._client.log_image(self._run_id, image, artifact_file=f"{_REFUSED.sub('_', name)}/{iteration:07d}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
