"""detectron2's trainer with gradient accumulation, mixed precision, gradient clipping, EMA and diagnosis of NaN losses."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.hooks import IterationTimer, PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from flash_internimage.errors import UserError
from flash_internimage.precision import autocast_dtype

from .hooks import EvaluationRecord, PeriodicCheckpoints
from .seeding import seed_everything
from .stopping import StoppedBySignal, StopRequest, agreed_signal

logger = logging.getLogger(__name__)

Batch = Sequence[dict[str, Any]]


class AveragedWeights(Protocol):
    """Interface of a moving average of the weights."""

    def update_parameters(self, model: nn.Module) -> None: ...


@dataclass(frozen=True)
class StepOptions:
    """Options of a training step.

    Attributes:
        seed: seed of the run; each step is seeded with it, the rank and the iteration.
        accumulation_steps: number of micro-batches into which the images of a step are split.
        amp_dtype: dtype of autocast; None: no autocast.
        max_grad_norm: maximum norm of the gradient over all parameters; None: no clipping.
        grad_norm_type: order p of the norm.
    """

    seed: int
    accumulation_steps: int = 1
    amp_dtype: torch.dtype | None = None
    max_grad_norm: float | None = None
    grad_norm_type: float = 2.0


def amp_dtype(enabled: bool, name: str, device: torch.device) -> torch.dtype | None:
    """Return the autocast dtype for ``train.amp``; None if it is disabled.

    Args:
        enabled: value of ``train.amp.enabled``.
        name: value of ``train.amp.dtype``.
        device: device of the run.

    Raises:
        UserError: the dtype is unknown, or is fp16 on a CPU.
    """
    if name not in ("bf16", "fp16"):
        raise UserError(f"train.amp.dtype={name}: expected bf16 or fp16")
    return autocast_dtype(name, device, "train.amp.dtype") if enabled else None


class Trainer(SimpleTrainer):
    """Runs the training steps; schedule, checkpoints, evaluation and log are hooks, as in detectron2.

    A step seeds the generators, loads a batch, runs forward and backward for each micro-batch, checks the losses of all
    processes, clips the gradient, and updates the weights and their average. Gradients are averaged over processes and
    micro-batches, so that n micro-batches are equivalent to n processes.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        options: StepOptions,
        device: torch.device,
        average: AveragedWeights | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        """
        Args:
            model: a model that returns a dict of scalar losses in training mode; may be a DistributedDataParallel.
            data_loader: infinite iterable of batches, each a list of mapped dataset dicts.
            optimizer: optimizer of the model's parameters.
            options: options of each step.
            device: device of the model.
            average: moving average of the weights, updated after each step.
            stop: request to stop, which is agreed upon by all processes in each step.
        """
        super().__init__(model, data_loader, optimizer)
        self.options = options
        self.device = device
        self.average = average
        self.stop = StopRequest() if stop is None else stop
        self._stop_signal = 0  # agreed upon by all processes
        self.end_reason = ""  # set by a hook, in all processes: why the run ends before its last iteration
        # bfloat16 has float32's exponent range: only float16 gradients underflow without loss scaling.
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=options.amp_dtype is torch.float16)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations ``start_iter`` to ``max_iter - 1``.

        Overridden because detectron2 runs the evaluation even if the last step failed, and logs a traceback for every error.
        """
        logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                if self.end_reason:  # as before the resume
                    self.iter = start_iter - 1
                else:
                    self._run_steps(start_iter, max_iter)
                if self.end_reason:
                    self._end_early()
                else:
                    self.iter = max_iter
                    self.after_train()
            except BaseException as error:
                self._close_after(error)
                raise

    def _run_steps(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations up to the last one, or to the one in which a hook or a signal ends the run."""
        for self.iter in range(start_iter, max_iter):
            self.before_step()
            self.run_step()
            self.after_step()
            if self.end_reason:
                return
            if self._stop_signal and self.iter + 1 < max_iter:  # otherwise the last evaluation stops
                raise StoppedBySignal(self._stop_signal, self.iter)

    def _end_early(self) -> None:
        """Save the final checkpoint and close the hooks. There is no last evaluation: one has just ended the run."""
        for hook in self._hooks:
            if isinstance(hook, PeriodicCheckpoints):
                hook.end_early()
            elif isinstance(hook, IterationTimer | PeriodicWriter | EvaluationRecord):
                hook.after_train()
        logger.info(self.end_reason)

    def _close_after(self, error: BaseException) -> None:
        """Save a checkpoint if a signal has stopped the run, and write the metrics of the steps before the error."""
        if isinstance(error, StoppedBySignal):
            for hook in self._hooks:
                if isinstance(hook, PeriodicCheckpoints):
                    hook.save(min(self.iter, self.max_iter - 1))
        for hook in self._hooks:
            if isinstance(hook, PeriodicWriter):
                # A second error, for instance of the full disk that is the first one, would hide it.
                with contextlib.suppress(Exception):
                    hook.after_train()
        if isinstance(error, StoppedBySignal):
            comm.synchronize()  # a launcher ends the other processes when the first one has ended

    def run_step(self) -> None:
        """Run one step: one update of the weights."""
        seed_everything(self.options.seed, comm.get_rank(), self.iter)
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward(batch)
        self._check_and_write(losses, data_time, batch)
        if self.options.max_grad_norm is not None:
            self._check_and_write_norm(self._clip_gradients(self.options.max_grad_norm), batch)
        self._update()
        if self.average is not None:
            self.average.update_parameters(self._bare_model())

    def try_step(self, batch: Batch) -> None:
        """Run a step with a batch, without checks, metrics and communication, to see whether there is enough memory for it.

        The checks of the model itself remain.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(batch)
        if self.options.max_grad_norm is not None:
            self._clip_gradients(self.options.max_grad_norm)
        self._update()

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Accumulate the gradient of the mean loss over all micro-batches; return the mean of each loss."""
        parts = micro_batches(batch, self.options.accumulation_steps)
        means: dict[str, torch.Tensor] = {}
        for i, part in enumerate(parts):
            weight = len(part) / len(batch)
            with self._synchronized_if(i == len(parts) - 1):
                losses = self._forward(part)
                self.grad_scaler.scale(cast(torch.Tensor, sum(losses.values())) * weight).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0.0) + loss.detach() * weight
        return means

    def _forward(self, part: Batch) -> dict[str, torch.Tensor]:
        """Compute the losses of a micro-batch.

        Raises:
            UserError: the model itself has found NaN, as detectron2's proposal generator does.
        """
        try:
            with torch.autocast(self.device.type, self.options.amp_dtype, enabled=self.options.amp_dtype is not None):
                return self.model(part)
        except FloatingPointError as error:
            raise UserError(f"{error} (at iteration {self.iter}, on the images {_names(part)})") from error

    def _clip_gradients(self, max_norm: float) -> float:
        """Clip the gradients; return their norm before that."""
        self.grad_scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.model.parameters(), max_norm, norm_type=self.options.grad_norm_type).item()

    def _check_and_write_norm(self, norm: float, batch: Batch) -> None:
        # With loss scaling an infinite gradient is normal now and then: the scaler skips the step.
        if not math.isfinite(norm) and not self.grad_scaler.is_enabled():
            raise UserError(f"gradient norm is {norm} at iteration {self.iter}, on the images {_names(batch)}")
        if comm.is_main_process():
            get_event_storage().put_scalar("grad_norm", norm)

    def _synchronized_if(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Synchronize gradients once per step, in the backward pass of the last micro-batch."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _bare_model(self) -> nn.Module:
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def _check_and_write(self, losses: dict[str, torch.Tensor], data_time: float, batch: Batch) -> None:
        """Log the losses, averaged over processes; raise in all processes if a loss of any process is not finite."""
        names = list(losses)
        values = torch.stack([losses[name].float() for name in names]).tolist()  # a single device-to-host copy
        finite = all(map(math.isfinite, values))
        files = "" if finite else _names(batch)
        everyone = comm.all_gather((values, data_time, files, self.stop.signal))
        self._stop_signal = agreed_signal(signal for *_, signal in everyone)
        for rank, (values_there, _, files_there, _) in enumerate(everyone):
            if files_there:
                raise UserError(nan_message(dict(zip(names, values_there, strict=True)), self.iter, files_there, rank))
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(time_there for _, time_there, *_ in everyone))
        means = [sum(column) / len(everyone) for column in zip(*(values_there for values_there, *_ in everyone), strict=True)]
        storage.put_scalar("total_loss", sum(means))
        if len(names) > 1:
            storage.put_scalars(**dict(zip(names, means, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """Split a batch into ``count`` parts of nearly equal size, or into one part per image if it has fewer images."""
    count = min(count, len(batch))
    bounds = [round(i * len(batch) / count) for i in range(count + 1)]
    return [batch[start:end] for start, end in itertools.pairwise(bounds)]


def _names(batch: Batch) -> str:
    return ", ".join(str(image.get("file_name", image.get("image_id", "?"))) for image in batch)


def nan_message(losses: dict[str, float], iteration: int, files: str, rank: int) -> str:
    """Return an error message that names the losses, the iteration and the images, and suggests what to try."""
    bad = ", ".join(f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value))
    good = ", ".join(f"{name} {value:.4g}" for name, value in losses.items() if math.isfinite(value))
    process = f" in process {rank}" if comm.get_world_size() > 1 else ""
    return (
        f"loss not finite: {bad} at iteration {iteration}{process}, on the images {files}"
        + (f" (the other losses: {good})" if good else "")
        + "; lower optimizer.lr, set train.clip_grad.max_norm, or look at these images and their boxes"
    )
