"""Resuming an optimizer with the settings of the config, which may have changed since the checkpoint was saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn
from torch.optim import Optimizer

from flash_internimage.errors import UserError


@dataclass(frozen=True)
class OptimizerLayout:
    """Which parameters an optimizer updates, by name, which its own ``state_dict`` does not say.

    Attributes:
        optimizer: name of its class.
        parameters: names of the parameters, by group.
    """

    optimizer: str
    parameters: list[list[str]]

    @classmethod
    def of(cls, optimizer: Optimizer, model: nn.Module) -> OptimizerLayout:
        """Return the layout of an optimizer of the parameters of ``model``."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
        return cls(type(optimizer).__name__, groups)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any] | None) -> OptimizerLayout | None:
        """Return the layout that a checkpoint contains; None for one of an earlier version, which has none."""
        return None if state is None else cls(state["optimizer"], state["parameters"])

    def state_dict(self) -> dict[str, Any]:
        """Return the layout for a checkpoint."""
        return {"optimizer": self.optimizer, "parameters": self.parameters}


def resumed_state(
    saved: Mapping[str, Any], layout: OptimizerLayout | None, optimizer: Optimizer, model: nn.Module
) -> tuple[dict[str, Any], str]:
    """Fit the saved state of an optimizer to a new one, whose settings replace the saved ones.

    Moments and step counts stay with their parameter, also if other settings group the parameters differently. The learning
    rates become the base rates of the schedule. With unchanged settings the state is the saved one.

    Args:
        saved: ``state_dict()`` of the optimizer in the checkpoint.
        layout: layout of the optimizer in the checkpoint; None if it is unknown.
        optimizer: the new optimizer, of the parameters of ``model``.

    Returns:
        The state to load into ``optimizer``, and a description of the changed settings with both values; empty if none changed.

    Raises:
        UserError: the state belongs to another optimizer, or to other parameters.
    """
    now = OptimizerLayout.of(optimizer, model)
    groups = optimizer.state_dict()["param_groups"]
    before = layout or _assumed_layout(saved, now, optimizer)
    if before.optimizer != now.optimizer:
        raise UserError(f"it holds the state of {before.optimizer}, but the config's optimizer is {now.optimizer}")
    _require_same_parameters(before, now)

    index = dict(zip(chain(*before.parameters), chain(*(group["params"] for group in saved["param_groups"])), strict=True))
    group_of = {i: group for group in saved["param_groups"] for i in group["params"]}
    state, fitted, changes = {}, [], _Changes()
    for group, names in zip(groups, now.parameters, strict=True):
        olds = [index[name] for name in names]
        new = {**group_of[olds[0]], **{key: value for key, value in group.items() if key != "lr"}}
        base_lr = group["lr"]
        if base_lr != _base_lr(group_of[olds[0]]):
            new["lr"] = base_lr
        new["initial_lr"] = base_lr  # what the scheduler multiplies
        for i, old in zip(group["params"], olds, strict=True):
            changes.add("lr", _base_lr(group_of[old]), base_lr)
            for key, value in group.items():
                if key not in ("params", "lr") and key in group_of[old]:
                    changes.add(key, group_of[old][key], value)
            if old in saved["state"]:
                state[i] = saved["state"][old]
        fitted.append(new)
    for key in changes.settings:
        if key in _ALGORITHM:
            raise UserError(f"its optimizer has another {key} than the config's ({changes.describe(key)})")
    return {**saved, "state": state, "param_groups": fitted}, ", ".join(map(changes.describe, changes.settings))


_ALGORITHM = ("amsgrad", "centered", "decoupled_weight_decay", "maximize", "nesterov")
"""Settings that select another algorithm, whose state differs or has another meaning."""


class _Changes:
    """Counts the parameters by setting and by pair of old and new value."""

    def __init__(self) -> None:
        self.settings: dict[str, list[tuple[Any, Any]]] = {}
        self._parameters: dict[str, int] = {}

    def add(self, setting: str, old: Any, new: Any) -> None:
        """Count a parameter, whose setting may have changed."""
        self._parameters[setting] = self._parameters.get(setting, 0) + 1
        if _comparable(old) != _comparable(new):
            self.settings.setdefault(setting, []).append((_comparable(old), _comparable(new)))

    def describe(self, setting: str) -> str:
        """Return, for example, ``lr 1e-06..0.0001 -> 5e-07..5e-05 (12 of 20 parameters)``."""
        olds, news = zip(*self.settings[setting], strict=True)
        total = self._parameters[setting]
        part = f" ({len(olds)} of {total} parameters)" if len(olds) < total else ""
        return f"{setting} {_range(olds)} -> {_range(news)}{part}"


def _range(values: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) == 1:
        return str(distinct[0])
    return f"{min(distinct)}..{max(distinct)}"


def _comparable(value: Any) -> Any:
    """Return betas, a list in a config and a tuple in PyTorch's default, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _base_lr(group: Mapping[str, Any]) -> float:
    return group.get("initial_lr", group["lr"])


def _assumed_layout(saved: Mapping[str, Any], now: OptimizerLayout, optimizer: Optimizer) -> OptimizerLayout:
    """Return the layout of a state that does not name its parameters: the current one, if nothing contradicts it."""
    groups = saved["param_groups"]
    if _numeric_settings(groups[0]) != _numeric_settings(optimizer.param_groups[0]):
        raise UserError(f"it holds the state of another optimizer than the config's {now.optimizer}")
    sizes = [len(group["params"]) for group in groups]
    sizes_now = [len(names) for names in now.parameters]
    parameters = chain(*(group["params"] for group in optimizer.param_groups))
    shapes_fit = sizes == sizes_now and all(
        value.shape == parameter.shape
        for i, parameter in zip(chain(*(group["params"] for group in groups)), parameters, strict=True)
        for key, value in saved["state"].get(i, {}).items()
        if key != "step" and hasattr(value, "shape")
    )
    if not shapes_fit:
        raise UserError(
            f"its optimizer has other parameters or groups than the config's ({sum(sizes)} parameters in {len(sizes)} groups, "
            f"the config has {sum(sizes_now)} in {len(sizes_now)}), as with another freeze_at"
        )
    return now


def _numeric_settings(group: Mapping[str, Any]) -> set[str]:
    """Return the names of the numeric settings, which depend on the optimizer's class but not on the version of PyTorch."""

    def is_number(value: Any) -> bool:
        parts = value if isinstance(value, list | tuple) else [value]
        return all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts)

    return {key for key, value in group.items() if key not in ("params", "initial_lr") and is_number(value)}


def _require_same_parameters(before: OptimizerLayout, now: OptimizerLayout) -> None:
    old, new = dict.fromkeys(chain(*before.parameters)), dict.fromkeys(chain(*now.parameters))
    added = [name for name in new if name not in old]
    frozen = [name for name in old if name not in new]
    differences = [f"lacks {_names(added)} that the config trains"] if added else []
    differences += [f"has {_names(frozen)} that the config freezes"] if frozen else []
    if differences:
        raise UserError(f"its optimizer {' and '.join(differences)}, as with another freeze_at")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
