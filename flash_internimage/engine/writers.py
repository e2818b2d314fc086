"""Where a run's metrics go: the log, the terminal, ``metrics.json``, TensorBoard and, if asked for, Weights & Biases."""

from __future__ import annotations

import os
import sys
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from omegaconf import DictConfig, OmegaConf

from .progress import ProgressLog, TerminalLine, is_terminal
from .wandb_writer import WandbWriter


def build_writers(cfg: DictConfig, resumed: bool) -> list[HookBase]:
    """Hooks that write metrics every ``train.log_period`` iterations, and on a terminal a line that follows every iteration.

    Args:
        cfg: a whole config.
        resumed: whether the run goes on from a checkpoint.
    """
    train = cfg.train
    folder = train.output_dir
    images_a_step = cfg.dataloader.train.total_batch_size
    wandb = OmegaConf.select(cfg, "train.wandb")  # configs that earlier versions saved have none
    writers = [ProgressLog(train.max_iter, images_a_step)]
    if wandb is not None and wandb.enabled:
        config: Any = OmegaConf.to_container(OmegaConf.create({"train": train}), resolve=False)
        writers.append(WandbWriter(wandb.project, wandb.name, config, folder, resumed))
    os.makedirs(folder, exist_ok=True)
    writers += [JSONWriter(os.path.join(folder, "metrics.json")), TensorboardXWriter(folder)]
    hooks: list[HookBase] = [PeriodicWriter(writers, train.log_period)]
    if is_terminal(sys.stdout):
        hooks.append(PeriodicWriter([TerminalLine(train.max_iter, images_a_step, sys.stdout)], period=1))
    return hooks
