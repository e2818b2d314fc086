"""Exponential moving average (EMA) of the weights of a model, with PyTorch's ``AveragedModel``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def build_ema(model: nn.Module, momentum: float = 1e-4, warmup_iters: int = 2000) -> AveragedModel:
    """Create the moving average of a model: call ``update_parameters(model)`` after every optimizer step.

    Floating-point buffers (running statistics) are averaged too; integer buffers are copied.

    Args:
        model: the model to average; its current weights are the initial average.
        momentum: weight of the current weights in an update, after the warm-up.
        warmup_iters: time constant, in iterations, with which that weight decays from 1; 0 for no warm-up.

    Returns:
        The averaged model; its ``module`` is a copy of ``model``. Its ``state_dict()`` includes the number of updates.
    """
    averaged = AveragedModel(model, multi_avg_fn=partial(_update, momentum, warmup_iters), use_buffers=True)
    # AveragedModel would overwrite the initial weights in its first update; here they are part of the average.
    averaged.n_averaged.fill_(1)
    return averaged


def ema_of_run(options: Mapping[str, Any], model: nn.Module, state: Mapping[str, Any]) -> AveragedModel | None:
    """The moving average of a run's weights, if its options enable one: restored from a checkpoint, or new.

    Args:
        options: the section ``train.ema`` of a config, which may lack values.
        state: contents of a checkpoint beside the model; may be empty.

    Returns:
        None if the options do not enable it.
    """
    if not options.get("enabled", False):
        return None
    average = build_ema(model, **{name: options[name] for name in ("momentum", "warmup_iters") if name in options})
    if "ema" in state:
        average.load_state_dict(state["ema"])
    return average


def ema_momentum(iteration: int, momentum: float, warmup_iters: int) -> float:
    """Weight of the current weights in an update of the average.

    Args:
        iteration: training iteration, from 0.
        momentum: the value after the warm-up.
        warmup_iters: time constant, in iterations, of the exponential decay from 1 to ``momentum``; 0 for no warm-up.
    """
    if warmup_iters == 0:
        return momentum
    return (1 - momentum) * math.exp(-(1 + iteration) / warmup_iters) + momentum


@torch.no_grad()
def _update(momentum: float, warmup_iters: int, averaged: list[Tensor], current: list[Tensor], number_averaged: Tensor) -> None:
    """Update ``averaged`` with ``current``; AveragedModel calls this once for all tensors of a dtype."""
    if not averaged[0].is_floating_point():
        torch._foreach_copy_(averaged, current)
        return
    # The initial weights count as the first update, so the update of iteration 0 finds number_averaged == 1.
    torch._foreach_lerp_(averaged, current, ema_momentum(int(number_averaged) - 1, momentum, warmup_iters))
