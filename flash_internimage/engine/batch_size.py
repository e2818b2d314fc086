"""Scaling of the learning rate and the schedule to another batch size than the recipe's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from flash_internimage.errors import UserError
from flash_internimage.plurals import agree, counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchSize:
    """The batch size of a run, in its checkpoints.

    Attributes:
        total: images of one iteration over all processes; None if the loader has no such setting.
        reference: images per step that the learning rate and schedule of the run are for.
    """

    total: int | None
    reference: int | None

    @classmethod
    def of(cls, cfg: DictConfig) -> BatchSize:
        """Return the batch size that a config describes, after :func:`fit_to_batch_size`."""
        return cls(cfg.dataloader.train.get("total_batch_size"), cfg.train.reference_batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "reference": self.reference}


def require_same_batch_size(state: Mapping[str, Any] | None, now: BatchSize, checkpoint: str) -> None:
    """Raise an exception if a checkpoint was saved with another batch size than that of the run that resumes from it.

    The iteration of the checkpoint would count other images, in another schedule.

    Args:
        state: of :class:`BatchSize` in the checkpoint; None if it has none.
        now: the batch size of the run.
        checkpoint: path of the checkpoint, for the message.

    Raises:
        UserError: the images per step differ, or those that learning rate and schedule are for.
    """
    saved = now if state is None else BatchSize(state["total"], state.get("reference", now.reference))
    if saved != now:
        raise UserError(
            f"--resume: {checkpoint} was trained with {saved.total} images per step, and learning rate and schedule for "
            f"{saved.reference}; this run is configured with {now.total}, and learning rate and schedule for {now.reference}; "
            "continue with the same settings (train.accumulation_steps may be raised to save memory), or start another run "
            f"from the weights, without --resume: train.init_checkpoint={checkpoint} train.output_dir=NEW_FOLDER"
        )


def fit_to_batch_size(cfg: DictConfig, world_size: int) -> None:
    """Validate the batch size and, if ``train.scale_to_batch_size``, scale learning rate and schedule to it, in place.

    Linear scaling rule: with k times as many images per step, the learning rate is multiplied by k, and everything counted in
    iterations is divided by k, so that the run sees as many images (Goyal et al., "Accurate, Large Minibatch SGD",
    https://arxiv.org/abs/1706.02677).

    Raises:
        UserError: the batch size is not divisible by the number of processes, or has fewer images than accumulation steps.
    """
    train = cfg.train
    size = cfg.dataloader.train.total_batch_size
    if size < 1 or size % world_size:
        expected = agree(f"[1 or more|a positive multiple of the {world_size} processes]", world_size)
        raise UserError(f"dataloader.train.total_batch_size={size}: expected {expected}")
    steps = train.accumulation_steps
    if not 1 <= steps <= size // world_size:
        raise UserError(
            f"train.accumulation_steps={steps}: expected 1 to {size // world_size}, the number of images per process and step "
            f"({counted(size, 'image')} on {counted(world_size, 'process', 'processes')})"
        )
    factor = size / train.reference_batch_size
    if factor == 1:
        return
    if not train.scale_to_batch_size:
        logger.warning(
            "The recipe is for %d images per step, this run has %d; train.scale_to_batch_size=true scales learning rate and "
            "schedule to it",
            train.reference_batch_size,
            size,
        )
        return
    before = _summary(cfg)
    cfg.optimizer.lr = cfg.optimizer.lr * factor
    train.max_iter = math.ceil(train.max_iter / factor)
    train.eval_period = math.ceil(train.eval_period / factor)
    train.checkpointer.period = math.ceil(train.checkpointer.period / factor)
    if "warmup_iters" in cfg.lr_multiplier:  # fvcore's schedulers have the warm-up as a fraction of the run instead
        cfg.lr_multiplier.warmup_iters = math.ceil(cfg.lr_multiplier.warmup_iters / factor)
    logger.info(
        "Scaled from %d to %s per step: %s, instead of %s",
        train.reference_batch_size,
        counted(size, "image"),
        _summary(cfg),
        before,
    )
    train.reference_batch_size = size  # so that the saved config, which has the scaled values, is not scaled again


def _summary(cfg: DictConfig) -> str:
    warmup = cfg.lr_multiplier.get("warmup_iters", "as a fraction")
    iterations = agree(f"{cfg.train.max_iter} [iteration|iterations]", cfg.train.max_iter)
    return f"learning rate {cfg.optimizer.lr:g}, {iterations}, warm-up {warmup}"
