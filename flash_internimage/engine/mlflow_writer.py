"""Event writer for MLflow."""

from __future__ import annotations

import logging
import os
import re
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flash_internimage.errors import UserError
from flash_internimage.packages import require

from .experiment_writer import ExperimentWriter, note_id, noted_id
from .stopping import StoppedBySignal

_RUN_FILE = "mlflow_run_id"
_REFUSED = re.compile(r"[^\w\-. /:]")  # characters that MLflow does not allow in the name of a metric
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_BATCH = 1000  # metrics per request, MLflow's limit
_PAUSE_SECONDS = 300.0  # time after a failure without further requests, which would hold the training up
# MLflow's own values, 7 retries of up to 120 s, hold up a training for minutes if the server is away.
_REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}

logger = logging.getLogger(__name__)


class MLflowWriter(ExperimentWriter):
    """Writes scalars and images to a run of MLflow.

    A failure after the start does not end the training: it is logged once, and the values of that time are missing.

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
        self._failed_at: float | None = None
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
                f"train.mlflow: MLflow cannot {'start' if earlier is None else 'continue'} the run ({_reason(error)}); correct "
                f"train.mlflow.tracking_uri or {remedy}, or train without MLflow: train.mlflow.enabled=false"
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
        if self._failed_at is not None and time.monotonic() - self._failed_at < _PAUSE_SECONDS:
            return
        try:
            self._send(iteration, scalars, images)
        except Exception as error:  # any: stores of metrics and images have exceptions of their own
            self._report(error)

    def _send(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(_REFUSED.sub("_", name), float(value), now, iteration) for name, value in scalars.items()]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _BATCH])
        for name, image in images.items():
            self._client.log_image(self._run_id, image, artifact_file=f"{_REFUSED.sub('_', name)}/{iteration:07d}.png")

    def end(self, error: BaseException | None) -> None:
        try:
            self._client.set_terminated(self._run_id, status=_status(error))
        except Exception as failure:
            self._report(failure)

    def _report(self, error: Exception) -> None:
        if self._failed_at is None:
            logger.warning(
                "MLflow takes no values (%s); the training continues and tries again after %.0f s, metrics.json has them all",
                _reason(error),
                _PAUSE_SECONDS,
            )
        self._failed_at = time.monotonic()


def _status(error: BaseException | None) -> str:
    """Return MLflow's status of a run that an error has ended, or that ended regularly."""
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, StoppedBySignal | KeyboardInterrupt) else "FAILED"


def _reason(error: Exception) -> str:
    """Return the message of an error on one line, without credentials in URLs."""
    return textwrap.shorten(_CREDENTIALS.sub("", str(error)).rstrip(". \n"), width=300, placeholder=" ...")
