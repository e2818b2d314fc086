"""Hooks that save the most recent checkpoints and the best one, and that record evaluations, also across a resume."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically
from flash_internimage.plurals import counted

from .output import LAST_EVALUATION_FILE

logger = logging.getLogger(__name__)


class PeriodicCheckpoints(HookBase):
    """Saves ``model_0000099.pth``, … periodically and ``model_final.pth`` after the last iteration; on the main process.

    Unlike detectron2's ``PeriodicCheckpointer``, it counts the checkpoints of earlier parts of a resumed run, and none that the
    run has not written.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, max_to_keep: int | None = None, start: int = 0) -> None:
        """
        Args:
            period: iterations between checkpoints.
            max_to_keep: number of periodic checkpoints to keep, including those from before a resume; None: keep all.
            start: first iteration of this part of the run; above 0 if it was resumed.
        """
        if period < 1 or (max_to_keep is not None and max_to_keep < 1):
            raise UserError(
                f"train.checkpointer: expected a period and a max_to_keep of 1 or more (None, in a config file, keeps all), "
                f"got {period} and {max_to_keep}"
            )
        self._checkpointer = checkpointer
        self._period = period
        self._max_to_keep = max_to_keep
        self._last_saved = start - 1
        earlier = sorted(Path(checkpointer.save_dir).glob("model_" + "[0-9]" * 7 + ".pth")) if start > 0 else []
        self._kept = [path for path in earlier if int(path.stem.removeprefix("model_")) < start]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0:
            self.save(self.trainer.iter)
        if done >= self.trainer.max_iter:
            self._save_final(self.trainer.iter)

    def after_train(self) -> None:
        """Save ``model_final.pth`` if the run was killed between the last periodic checkpoint and this one."""
        if self.trainer.start_iter >= self.trainer.max_iter and not self._is_final():
            self._save_final(self.trainer.max_iter - 1)

    def end_early(self) -> None:
        """Save ``model_final.pth`` after the current iteration, unless an earlier part of the run has done so."""
        if self.trainer.iter >= self.trainer.start_iter or not self._is_final():
            self._save_final(self.trainer.iter)

    def _is_final(self) -> bool:
        return os.path.basename(self._checkpointer.get_checkpoint_file()) == "model_final.pth"

    def _save_final(self, iteration: int) -> None:
        self._checkpointer.save("model_final", iteration=iteration)
        self._last_saved = iteration

    def save(self, iteration: int) -> None:
        """Save a checkpoint after an iteration, unless this has been done, and delete the oldest ones."""
        if iteration == self._last_saved:
            return
        name = f"model_{iteration:07d}"
        self._checkpointer.save(name, iteration=iteration)
        self._last_saved = iteration
        self._kept.append(Path(self._checkpointer.save_dir) / f"{name}.pth")
        while self._max_to_keep is not None and len(self._kept) > self._max_to_keep:
            self._kept.pop(0).unlink(missing_ok=True)


class EvaluationRecord(HookBase):
    """Records the last completed evaluation in a file; on resume, repeats one that was due but did not finish.

    Register it after the hooks of evaluation and metrics, in all processes.
    """

    def __init__(self, folder: str, period: int, log_period: int, evaluation: Sequence[HookBase | None]) -> None:
        """
        Args:
            folder: output folder of the run.
            period: iterations between evaluations; 0: only after the last iteration.
            log_period: iterations between the records of the metrics.
            evaluation: hooks that evaluate, and that use the metrics: those whose ``after_step`` was not completed.
        """
        self._note = Path(folder) / LAST_EVALUATION_FILE
        self._period = period
        self._log_period = log_period
        self._evaluation = [hook for hook in evaluation if hook is not None]
        self._unwritten: int | None = None

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if start == 0 or start >= self.trainer.max_iter or self._period < 1 or start % self._period:
            return
        if not any(comm.all_gather(comm.is_main_process() and self._noted() != start - 1)):
            return
        logger.info("Evaluating first, as the run ended before the evaluation after iteration %d had finished", start - 1)
        self.trainer.iter = self.trainer.storage.iter = start - 1
        for hook in self._evaluation:
            hook.after_step()
        self._unwritten = start - 1
        self.trainer.iter = self.trainer.storage.iter = start

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._unwritten = self.trainer.iter
        # An evaluation whose metrics are not in metrics.json yet would be lost if the run were killed now.
        if self._unwritten is not None and done % self._log_period == 0:
            self._write(self._unwritten)
            self._unwritten = None

    def after_train(self) -> None:
        self._write(min(self.trainer.iter, self.trainer.max_iter - 1))

    def _write(self, iteration: int) -> None:
        if comm.is_main_process():
            write_atomically(self._note, lambda path: path.write_text(f"{iteration}\n", encoding="utf-8"))

    def _noted(self) -> int | None:
        try:
            return int(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


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

        Attributes:
            best: best value so far; None before the first one.
            best_iteration: iteration after which it was measured.
        """
        if mode not in ("max", "min"):
            raise UserError(f"train.best_checkpoint.mode={mode}: expected max or min")
        self._checkpointer = checkpointer
        self._period = period
        self.metric = metric
        self._sign = 1.0 if mode == "max" else -1.0
        self._note = Path(checkpointer.save_dir) / "model_best.json"
        self.best: float | None = None
        self.best_iteration: int | None = None
        if resumed and self._note.is_file():
            self._read_note()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._keep_if_best(self.trainer.iter)

    def after_train(self) -> None:
        self._keep_if_best(self.trainer.max_iter - 1)

    def _keep_if_best(self, iteration: int) -> None:
        latest = self.trainer.storage.latest().get(self.metric)
        if latest is None:
            known = ", ".join(sorted(name for name in self.trainer.storage.latest() if "/" in name)) or "nothing"
            logger.warning("No best checkpoint saved: the evaluation has no metric %s, but %s", self.metric, known)
            return
        value = latest[0]
        if math.isnan(value) or (self.best is not None and self._sign * value <= self._sign * self.best):
            return
        logger.info("Best %s so far: %.4f, after %s", self.metric, value, counted(iteration + 1, "iteration"))
        self.best, self.best_iteration = value, iteration
        resume_from = self._checkpointer.get_checkpoint_file()
        self._checkpointer.save("model_best", iteration=iteration)
        if resume_from:
            self._checkpointer.tag_last_checkpoint(os.path.basename(resume_from))
        text = json.dumps({"metric": self.metric, "value": value, "iteration": iteration}) + "\n"
        write_atomically(self._note, lambda path: path.write_text(text, encoding="utf-8"))

    def _read_note(self) -> None:
        """Restore the best value from the file, if that is one of this metric."""
        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))
            if noted["metric"] == self.metric:
                self.best, self.best_iteration = float(noted["value"]), int(noted["iteration"])
        except (ValueError, LookupError, TypeError) as error:
            logger.warning("%s cannot be read (%r); the next evaluation counts as the best one so far", self._note, error)
