"""Event writer for MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flash_internimage.errors import UserError
from flash_internimage.packages import require

from .experiment_writer import ExperimentWriter, note_id, noted_id, reason_of, was_stopped

_RUN_FILE = "mlflow_run_id"
_REFUSED = re.compile(r"[^\w\-. /:]")  # characters that MLflow does not allow in the name of a metric
_BATCH = 1000  # metrics per request, MLflow's limit
# MLflow's own values, 7 retries of up to 120 s, hold up a training for minutes if the server is away.
_REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class MLflowWriter(ExperimentWriter):
    """Writes scalars and images to a run of MLflow.

    Args:
        experiment: MLflow experiment of the run, which is created if it does not exist.
        name: name of the run; None: MLflow generates one.
        tracking_uri: server or database of MLflow; None: its own default, such as ``MLFLOW_TRACKING_URI``.
        config: config of the run, stored as ``config.json``.
        folder: output folder of the run, in which the MLflow run id is stored.
        resumed: whether to continue the MLflow run whose id is stored in ``folder``, if there is one.

    Raises:
        UserError: ``mlflow`` is not installed, or cannot start or continue the run.
    """

    title = "MLflow"

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
        for variable, value in _REQUEST_LIMITS.items():
            os.environ.setdefault(variable, value)
        self._metric = mlflow.entities.Metric
        note = Path(folder) / _RUN_FILE
        earlier = noted_id(note, resumed)
        remedy = "train.mlflow.experiment" if earlier is None else f"remove {note} to start another run"
        try:
            self._client = mlflow.MlflowClient(tracking_uri)
            if earlier is None:
                self._run_id = self._create_run(experiment, name, config)
            else:
                self._run_id = earlier
                self._client.update_run(earlier, status="RUNNING")
        except (mlflow.exceptions.MlflowException, ImportError, OSError) as error:  # ImportError: the driver of a database
            raise UserError(
                f"train.mlflow: MLflow cannot {'start' if earlier is None else 'continue'} the run ({reason_of(error)}); "
                f"correct train.mlflow.tracking_uri or {remedy}, or train without MLflow: train.mlflow.enabled=false"
            ) from error
        if earlier is None:
            note_id(note, self._run_id)

    def _create_run(self, experiment: str, name: str | None, config: Mapping[str, Any]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        run_id: str = self._client.create_run(number, run_name=name).info.run_id
        self._client.log_dict(run_id, dict(config), "config.json")
        return run_id

    def log(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(_REFUSED.sub("_", name), float(value), now, iteration) for name, value in scalars.items()]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _BATCH])
        for name, image in images.items():
            self._client.log_image(self._run_id, image, artifact_file=f"{_REFUSED.sub('_', name)}/{iteration:07d}.png")

    def end(self, error: BaseException | None) -> None:
        self._client.set_terminated(self._run_id, status=_status(error))


def _status(error: BaseException | None) -> str:
    """Return MLflow's status of a run that an error has ended, or that ended regularly."""
    if error is None:
        return "FINISHED"
    return "KILLED" if was_stopped(error) else "FAILED"
