"""Event writer for ClearML."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flash_internimage.errors import UserError
from flash_internimage.packages import require

from .experiment_writer import ExperimentWriter, note_id, noted_id, reason_of, was_stopped
from .seeding import preserved_generators

_RUN_FILE = "clearml_task_id"
_SERVER_SECONDS = 20.0
# All that ClearML would otherwise replace functions of, and the upload of the program with its uncommitted changes.
_AUTOMATIC = (
    "catboost",
    "detect_repository",
    "fastai",
    "gradio",
    "hydra",
    "joblib",
    "lightgbm",
    "matplotlib",
    "megengine",
    "pytorch",
    "scikit",
    "tensorboard",
    "tensorflow",
    "tfdefines",
    "xgboost",
)


class ClearMLWriter(ExperimentWriter):
    """Writes scalars and images to a task of ClearML, and nothing else: no code, arguments, console output or monitoring.

    Args:
        project: ClearML project of the run.
        name: name of the task; None: ClearML chooses one.
        config: config of the run, stored as the configuration object ``config``.
        folder: output folder of the run, in which the id of the task is stored.
        resumed: whether to continue the task whose id is stored in ``folder``, if there is one.

    Raises:
        UserError: ``clearml`` is not installed, or cannot start or continue the task.
    """

    title = "ClearML"

    def __init__(self, project: str, name: str | None, config: Mapping[str, Any], folder: str, resumed: bool) -> None:
        task_class = require("clearml", "train.clearml.enabled=true").Task
        note = Path(folder) / _RUN_FILE
        earlier = noted_id(note, resumed)
        task_class.set_random_seed(None)  # otherwise cuDNN becomes deterministic
        try:
            if not task_class.is_offline():
                _require_server()
            with _signal_handlers_kept(), preserved_generators(torch.device("cpu")):
                self._task = task_class.init(
                    project_name=project,
                    task_name=name,
                    reuse_last_task_id=False,
                    continue_last_task=earlier or False,
                    auto_connect_arg_parser=False,
                    auto_connect_frameworks=dict.fromkeys(_AUTOMATIC, False),
                    auto_resource_monitoring=False,
                    auto_connect_streams=False,
                )
            self._task.set_initial_iteration(0)  # a continued task would add its last iteration to each
            if earlier is None:
                self._task.connect_configuration(dict(config), name="config")
        except Exception as error:  # any: configuration, login, connection
            remedy = "" if earlier is None else f", remove {note} to start another task"
            raise UserError(
                f"train.clearml: ClearML cannot {'start' if earlier is None else 'continue'} the task ({reason_of(error)}); "
                f"run clearml-init or set CLEARML_API_HOST and its keys{remedy}, or train without ClearML: "
                "train.clearml.enabled=false"
            ) from error
        if earlier is None:
            note_id(note, self._task.id)

    def log(self, iteration: int, scalars: Mapping[str, float], images: Mapping[str, np.ndarray]) -> None:
        logger = self._task.get_logger()
        for name, value in scalars.items():
            logger.report_scalar(*_plot(name), value, iteration)
        for name, image in images.items():
            logger.report_image(*_plot(name), iteration, image=image)

    def end(self, error: BaseException | None) -> None:
        if error is not None and was_stopped(error):
            self._task.mark_stopped(status_message=reason_of(error))
        elif error is not None:
            self._task.mark_failed(status_message=reason_of(error))
        self._task.close()


def _plot(name: str) -> tuple[str, str]:
    """Return the title of the plot that shows a value, and the name of its curve: ``bbox/AP`` -> ``bbox`` and ``AP``."""
    title, _, series = name.rpartition("/")
    return title or name, series


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Restore the signal handlers after the context: ClearML's would replace those with which a run saves a checkpoint."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _require_server() -> None:
    """Raise an exception if the server does not answer: ClearML would try again for hours.

    Raises:
        OSError: there is no answer.
    """
    import requests  # of clearml
    from clearml.backend_api import Session

    requests.get(f"{Session.get_api_server_host()}/debug.ping", timeout=_SERVER_SECONDS)
