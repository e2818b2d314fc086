"""An exponential moving average of a model's weights, over PyTorch's ``AveragedModel``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def build_ema(model: nn.Module, momentum: float = 1e-4, warmup_iters: int = 2000) -> AveragedModel:
    """A copy of ``model`` that follows it: call ``update_parameters(model)`` after every optimizer step.

    Buffers with fractions (running statistics) are averaged too; counters are copied.

    Args:
        model: what to follow; the average starts at its present weights.
        momentum: share of the newest weights in the average, after its warm-up.
        warmup_iters: time constant, in iterations, with which that share falls from 1; 0 for no warm-up.

    Returns:
        The averaged model; its ``module`` is the model proper. All its state, the number of updates included, is in its
        ``state_dict()``.
    """
    averaged = AveragedModel(model, multi_avg_fn=partial(_update, momentum, warmup_iters), use_buffers=True)
    # AveragedModel would replace the initial weights in its first update instead of averaging; they count here.
    averaged.n_averaged.fill_(1)
    return averaged


def ema_of_run(options: Mapping[str, Any], model: nn.Module, state: Mapping[str, Any]) -> AveragedModel | None:
    """The running average of the weights that a run's options ask for: a checkpoint's, or a new one from ``model``.

    Args:
        options: the section ``train.ema`` of a config.
        state: what a checkpoint holds beside the model; may be empty.

    Returns:
        None where the options ask for none.
    """
    if not options["enabled"]:
        return None
    average = build_ema(model, options["momentum"], options["warmup_iters"])
    if "ema" in state:
        average.load_state_dict(state["ema"])
    return average


def ema_momentum(iteration: int, momentum: float, warmup_iters: int) -> float:
    """Share of the newest weights in the average.

    Args:
        iteration: of the training, from 0.
        momentum: the share that it tends to.
        warmup_iters: time constant of the exponential that leads there from 1, in iterations; 0 for no warm-up.
    """
    if warmup_iters == 0:
        return momentum
    return (1 - momentum) * math.exp(-(1 + iteration) / warmup_iters) + momentum


@torch.no_grad()
def _update(momentum: float, warmup_iters: int, averaged: list[Tensor], current: list[Tensor], number_averaged: Tensor) -> None:
    """Move ``averaged`` towards ``current``; AveragedModel calls this once for all tensors of a dtype."""
    if not averaged[0].is_floating_point():
        torch._foreach_copy_(averaged, current)
        return
    # The initial weights are the first in the average, so that the first update, at iteration 0, finds one.
    torch._foreach_lerp_(averaged, current, ema_momentum(int(number_averaged) - 1, momentum, warmup_iters))
