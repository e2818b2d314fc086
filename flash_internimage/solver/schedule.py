"""The learning-rate schedule of the published recipes."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.param_scheduler import ParamScheduler

from flash_internimage.errors import UserError


def multi_step_multiplier(
    iteration: int, milestones: Sequence[int], gamma: float, warmup_iters: int, warmup_ratio: float
) -> float:
    """What the base rate is multiplied by in one iteration.

    Args:
        iteration: counted from 0.
        milestones: iterations from which on the rate is multiplied by ``gamma`` (once more each).
        warmup_iters: iterations in which a factor grows linearly from ``warmup_ratio`` towards 1.
    """
    multiplier = gamma ** sum(iteration >= milestone for milestone in milestones)
    if iteration < warmup_iters:
        multiplier *= 1 - (1 - iteration / warmup_iters) * (1 - warmup_ratio)
    return multiplier


class WarmupMultiStep(ParamScheduler):
    """Steps at the end of given epochs, after a linear warm-up counted in iterations.

    detectron2's ``WarmupParamScheduler`` measures everything as a share of the run and rounds with a tolerance of 1e-6 of it,
    which moves a step by whole iterations in a long run. Here a share is turned back into the iteration it stands for.
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
            max_iter: iterations of the run.
            epochs: what the run is counted as, so that ``steps`` read as in the recipe. A shorter run has its steps earlier.
            steps: epochs after which the rate is multiplied by ``gamma``.
            warmup_iters: 0 for none.
        """
        if any(not 0 < step <= epochs for step in steps):
            raise UserError(f"lr_multiplier.steps={list(steps)}: expected numbers above 0 and up to epochs={epochs}")
        self.max_iter = max_iter
        self.milestones = [round(max_iter * step / epochs) for step in steps]
        self.gamma = gamma
        self.warmup_iters = warmup_iters
        self.warmup_ratio = warmup_ratio

    def __call__(self, where: float) -> float:
        """The multiplier at ``where``, the share of the run that is done, in [0, 1]."""
        return multi_step_multiplier(
            round(where * self.max_iter), self.milestones, self.gamma, self.warmup_iters, self.warmup_ratio
        )
