"""The learning-rate schedule of the published recipes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fvcore.common.param_scheduler import ParamScheduler

from flash_internimage.errors import UserError

logger = logging.getLogger(__name__)


def multi_step_multiplier(
    iteration: int, milestones: Sequence[int], gamma: float, warmup_iters: int, warmup_ratio: float
) -> float:
    """Multiplier of the base learning rate in one iteration.

    Args:
        iteration: counted from 0.
        milestones: at each of these iterations the rate is multiplied by ``gamma``.
        warmup_iters: iterations in which a factor increases linearly from ``warmup_ratio`` to 1.
    """
    multiplier = gamma ** sum(iteration >= milestone for milestone in milestones)
    if iteration < warmup_iters:
        multiplier *= 1 - (1 - iteration / warmup_iters) * (1 - warmup_ratio)
    return multiplier


class WarmupMultiStep(ParamScheduler):
    """Multi-step schedule with steps at the end of epochs, after a linear warm-up in iterations.

    detectron2's ``WarmupParamScheduler`` works with fractions of the run and a tolerance of 1e-6, which shifts a step by whole
    iterations in a long run. This class converts a fraction back to its iteration.
    """

    def __init__(
        self,
        max_iter: int,
        epochs: float,
        steps: Sequence[float],
        gamma: float = 0.1,
        warmup_iters: int = 500,
        warmup_ratio: float = 0.001,
    ) -> None:
        """
        Args:
            max_iter: number of iterations of the run.
            epochs: length of the run in the unit of ``steps``. In a shorter run all steps are earlier in proportion.
            steps: epochs after which the rate is multiplied by ``gamma``.
            warmup_iters: length of the warm-up in iterations; 0 for none.
        """
        if any(not 0 < step <= epochs for step in steps):
            raise UserError(f"lr_multiplier.steps={list(steps)}: expected numbers above 0 and up to epochs={epochs}")
        if 0 < max_iter <= warmup_iters:
            logger.warning(
                "lr_multiplier.warmup_iters=%d is not less than train.max_iter=%d: the run ends during the warm-up, before the "
                "learning rate reaches optimizer.lr; lower lr_multiplier.warmup_iters",
                warmup_iters,
                max_iter,
            )
        self.max_iter = max_iter
        self.milestones = [round(max_iter * step / epochs) for step in steps]
        self.gamma = gamma
        self.warmup_iters = warmup_iters
        self.warmup_ratio = warmup_ratio

    def __call__(self, where: float) -> float:
        """The multiplier at ``where``, the completed fraction of the run, in [0, 1]."""
        return multi_step_multiplier(
            round(where * self.max_iter), self.milestones, self.gamma, self.warmup_iters, self.warmup_ratio
        )
