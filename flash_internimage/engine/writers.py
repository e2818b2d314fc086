"""Event writers of a run: log, progress bar, ``metrics.json``, TensorBoard and, if enabled, Weights & Biases."""

from __future__ import annotations

import os
import sys
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf

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
    wandb = OmegaConf.select(cfg, "train.wandb")  # configs saved by earlier versions have no such section
    writers = [ProgressLog(train.max_iter, images_per_step)]
    if wandb is not None and wandb.enabled:
        config: Any = OmegaConf.to_container(OmegaConf.create({"train": train}), resolve=False)
        writers.append(WandbWriter(wandb.project, wandb.name, config, folder, resumed))
    os.makedirs(folder, exist_ok=True)
    writers += [JSONWriter(os.path.join(folder, "metrics.json")), TensorboardXWriter(folder)]
    hooks: list[HookBase] = [PeriodicWriter(writers, train.log_period)]
    if is_terminal(sys.stdout):
        hooks.append(PeriodicWriter([ProgressBar(train.max_iter, images_per_step, sys.stdout)], period=1))
    return hooks
