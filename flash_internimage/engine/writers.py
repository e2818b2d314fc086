"""Event writers of a run: log, progress bar, ``metrics.json``, TensorBoard and, if enabled, experiment trackers."""

from __future__ import annotations

import copy
import os
import sys
import threading
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf

from flash_internimage.files import full_disk_reported

from .clearml_writer import ClearMLWriter
from .mlflow_writer import MLflowWriter
from .output import METRICS_FILE
from .private_values import clear_texts, has_credentials
from .progress import ProgressBar, ProgressLog, is_terminal
from .wandb_writer import WandbWriter


def build_writers(cfg: DictConfig, resumed: bool) -> list[HookBase]:
    """Build the hooks that write metrics every ``train.log_period`` iterations and, on a terminal, update a progress bar.

    Args:
        cfg: a complete config.
        resumed: whether the run is resumed from a checkpoint.
    """
    train = cfg.train
    folder = train.output_dir
    images_per_step = cfg.dataloader.train.total_batch_size
    # Configs saved by earlier versions lack these sections.
    wandb, mlflow, clearml = (OmegaConf.select(cfg, f"train.{name}") for name in ("wandb", "mlflow", "clearml"))
    config = config_for_trackers(train)
    writers: list[EventWriter] = [ProgressLog(train.max_iter, images_per_step)]
    if wandb is not None and wandb.enabled:
        writers.append(WandbWriter(wandb.project, wandb.name, config, folder, resumed))
    if mlflow is not None and mlflow.enabled:
        writers.append(MLflowWriter(mlflow.experiment, mlflow.name, mlflow.tracking_uri, config, folder, resumed))
    if clearml is not None and clearml.enabled:
        writers.append(ClearMLWriter(clearml.project, clearml.name, config, folder, resumed))
    os.makedirs(folder, exist_ok=True)
    writers += [MetricsWriter(Path(folder) / METRICS_FILE), TensorBoardWriter(folder)]
    hooks: list[HookBase] = [PeriodicWriter(writers, train.log_period)]
    if is_terminal(sys.stdout):
        hooks.append(PeriodicWriter([ProgressBar(train.max_iter, images_per_step, sys.stdout)], period=1))
    return hooks


def config_for_trackers(train: DictConfig) -> dict[str, Any]:
    """Return the trainer's settings for experiment trackers, without MLflow's address and without URLs with credentials."""
    shown = copy.deepcopy(train)
    if OmegaConf.select(shown, "mlflow") is not None:
        shown.mlflow.pop("tracking_uri", None)
    clear_texts(shown, has_credentials)
    return {"train": OmegaConf.to_container(shown, resolve=False)}


class MetricsWriter(JSONWriter):
    """Appends metrics to a file, one JSON object per line, after removing an incomplete last line of a killed run.

    If the disk is full, the error is one sentence.
    """

    def __init__(self, path: Path) -> None:
        _remove_incomplete_line(path)
        self._path = path
        super().__init__(str(path))

    def write(self) -> None:
        with full_disk_reported(self._path):
            super().write()

    def close(self) -> None:
        with full_disk_reported(self._path):
            super().close()


def _remove_incomplete_line(path: Path) -> None:
    """Truncate a file after its last line break: a line appended to an incomplete line could not be parsed."""
    if not path.is_file():
        return
    with open(path, "rb+") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            file.truncate(complete)


class TensorBoardWriter(TensorboardXWriter):
    """Writes TensorBoard events. If the disk is full, the error is one sentence."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        _silence_event_threads()
        with full_disk_reported(self._folder / "events.out.tfevents"):
            super().__init__(folder)

    def write(self) -> None:
        with full_disk_reported(self._file()):
            super().write()

    def close(self) -> None:
        with full_disk_reported(self._file()):
            super().close()

    def _file(self) -> Path:
        return max(self._folder.glob("events.out.tfevents.*"), default=self._folder / "events.out.tfevents")


def _silence_event_threads() -> None:
    """Print no traceback for a failed write in TensorBoard's thread: the next call of the writer raises the same error."""
    previous = threading.excepthook
    if previous.__module__ == __name__:
        return

    def report(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            previous(arguments)

    threading.excepthook = report
