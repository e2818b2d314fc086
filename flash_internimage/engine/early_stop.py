"""Early stopping: a run ends when the metric of its best checkpoint no longer improves."""

from __future__ import annotations

from detectron2.engine import HookBase
from detectron2.utils import comm

from flash_internimage.errors import UserError
from flash_internimage.plurals import counted

from .hooks import BestCheckpoint


class EarlyStop(HookBase):
    """Ends the run after ``patience`` evaluations in a row without a new best checkpoint.

    Register it in all processes, after all other hooks. The number of evaluations since the best one follows from the iteration
    in ``model_best.json``: a resumed run, also one that repeats an evaluation, continues the count, and a run that was ended
    this way stays ended.
    """

    def __init__(self, best: BestCheckpoint | None, period: int, patience: int) -> None:
        """
        Args:
            best: hook that keeps the best checkpoint; None except on the main process.
            period: iterations between evaluations.
            patience: number of evaluations without improvement.

        Raises:
            UserError: the patience is less than 1, or there are no periodic evaluations.
        """
        if not isinstance(patience, int) or patience < 1:
            raise UserError(f"train.early_stop.patience={patience}: expected 1 or more evaluations, or null to disable it")
        if period < 1:
            raise UserError(
                f"train.early_stop.patience={patience}: needs evaluations during the run, but train.eval_period is {period}"
            )
        self._best = best
        self._period = period
        self._patience = patience
        self._first = 0  # iteration from which evaluations count if there is no best one

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if start == 0 or start >= self.trainer.max_iter:
            return
        if self._best is not None and self._best.best is None:
            self._first = start
        self._decide(start)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 and done != self.trainer.max_iter:
            self._require_metric()
            self._decide(done)

    def _decide(self, done: int) -> None:
        """End the run if too many of the evaluations in the first ``done`` iterations have passed since the best one."""
        reasons = comm.all_gather("" if self._best is None else self._reason(self._best, done))
        self.trainer.end_reason = next(filter(None, reasons), "")

    def _reason(self, best: BestCheckpoint, done: int) -> str:
        improved = self._first if best.best_iteration is None else best.best_iteration + 1
        evaluations = done // self._period - improved // self._period
        if evaluations < self._patience:
            return ""
        value = "it was never a number: check the data and the learning rate"
        if best.best is not None:
            value = f"the best is {best.best:.4f} after {counted(improved, 'iteration')}, in model_best.pth"
        return (
            f"Stopped early after {done} of {self.trainer.max_iter} iterations: {best.metric} has not improved in the last "
            f"{counted(evaluations, 'evaluation')} (train.early_stop.patience={self._patience}); {value}"
        )

    def _require_metric(self) -> None:
        """Raise an error in all processes if the evaluation has not measured the metric: the run would end for a typo."""
        latest = self.trainer.storage.latest()
        problem = ""
        if self._best is not None and self._best.metric not in latest:
            known = ", ".join(sorted(name for name in latest if "/" in name)) or "no metrics; does the data have annotations?"
            problem = (
                f"train.early_stop.patience={self._patience}: the evaluation has no metric {self._best.metric} "
                f"(train.best_checkpoint.metric), but {known}"
            )
        problem = next(filter(None, comm.all_gather(problem)), "")
        if problem:
            raise UserError(problem)
