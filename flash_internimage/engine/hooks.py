"""Hooks that save checkpoints: the most recent ones and the best one, also across a resume."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from fvcore.common.checkpoint import Checkpointer

from flash_internimage.errors import UserError

logger = logging.getLogger(__name__)


def periodic_checkpoints(
    checkpointer: Checkpointer, period: int, max_to_keep: int | None, resumed: bool
) -> PeriodicCheckpointer:
    """Build the hook that saves a checkpoint every ``period`` iterations, and after the last one.

    Args:
        max_to_keep: number of periodic checkpoints to keep, including those from before a resume; None: keep all.
        resumed: whether the run was resumed in the checkpointer's folder.
    """
    if period < 1 or (max_to_keep is not None and max_to_keep < 1):
        raise UserError(
            f"train.checkpointer: expected a period and a max_to_keep of 1 or more (None, in a config file, keeps all), "
            f"got {period} and {max_to_keep}"
        )
    hook = PeriodicCheckpointer(checkpointer, period, max_to_keep=max_to_keep)
    if resumed:
        hook.recent_checkpoints = sorted(map(str, Path(checkpointer.save_dir).glob("model_" + "[0-9]" * 7 + ".pth")))
    return hook


class BestCheckpoint(HookBase):
    """Saves ``model_best.pth`` and ``model_best.json`` after each evaluation with a new best metric.

    Register it after the evaluation hook, on the main process. Unlike this hook, detectron2's ``BestCheckpointer`` forgets the
    best value on resume, tags the best checkpoint as the one to resume from, and is off by one for the last evaluation.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, metric: str, mode: str = "max", resumed: bool = False) -> None:
        """
        Args:
            period: iterations between evaluations; 0: only after the last iteration.
            metric: name of the metric, for example ``bbox/AP``.
            mode: ``max`` or ``min``.
            resumed: whether the run was resumed, so that the best value in the folder belongs to it.
        """
        if mode not in ("max", "min"):
            raise UserError(f"train.best_checkpoint.mode={mode}: expected max or min")
        self._checkpointer = checkpointer
        self._period = period
        self._metric = metric
        self._sign = 1.0 if mode == "max" else -1.0
        self._note = Path(checkpointer.save_dir) / "model_best.json"
        self.best: float | None = None
        if resumed and self._note.is_file():
            noted = json.loads(self._note.read_text(encoding="utf-8"))
            self.best = noted["value"] if noted["metric"] == metric else None

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._keep_if_best(self.trainer.iter)

    def after_train(self) -> None:
        self._keep_if_best(self.trainer.max_iter - 1)

    def _keep_if_best(self, iteration: int) -> None:
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None:
            known = ", ".join(sorted(name for name in self.trainer.storage.latest() if "/" in name)) or "nothing"
            logger.warning("No best checkpoint saved: the evaluation has no metric %s, but %s", self._metric, known)
            return
        value = latest[0]
        if math.isnan(value) or (self.best is not None and self._sign * value <= self._sign * self.best):
            return
        logger.info("Best %s so far: %.4f, after %d iterations", self._metric, value, iteration + 1)
        self.best = value
        resume_from = self._checkpointer.get_checkpoint_file()
        self._checkpointer.save("model_best", iteration=iteration)
        if resume_from:
            self._checkpointer.tag_last_checkpoint(os.path.basename(resume_from))
        temporary = self._note.with_suffix(".tmp")
        temporary.write_text(
            json.dumps({"metric": self._metric, "value": value, "iteration": iteration}) + "\n", encoding="utf-8"
        )
        os.replace(temporary, self._note)
