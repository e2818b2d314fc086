"""Parameter groups of the optimizer: learning rate and weight decay of each parameter, as in the published recipes.

There are two rules. With layer-wise decay (:func:`get_layer_decay_groups`) the learning rate decreases from the heads to the
image; with multipliers by name (:func:`get_named_groups`) a part of the model has its own rate. Both serve as the ``params``
of an optimizer in a LazyConfig, like detectron2's ``get_default_optimizer_params``: the trainer sets
``optimizer.params.model``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.families import ParameterRules
from flash_internimage.family_lookup import parameter_rules


class Setting(NamedTuple):
    """How the optimizer treats a parameter."""

    lr_multiplier: float
    """Learning rate, as a multiple of the base rate."""
    weight_decay: float
    """Decoupled weight decay, per step and unit of learning rate."""


def get_layer_decay_groups(
    model: nn.Module,
    base_lr: float,
    weight_decay: float,
    layer_ids: Callable[[Sequence[str]], Mapping[str, int]],
    layer_decay: float = 1.0,
    offset_lr_scale: float = 1.0,
) -> list[dict[str, Any]]:
    """Optimizer parameter groups with a learning rate that decays with the distance from the heads.

    Norms, biases and all other one-dimensional parameters have no weight decay. Further exceptions are those of the model's
    families (:class:`flash_internimage.families.ParameterRules`).

    Args:
        model: its parameters that require a gradient go into the groups, each once.
        base_lr: learning rate of the heads.
        weight_decay: of the parameters that have weight decay.
        layer_ids: all names -> {name: id}, where the ids increase from the image (0) to the heads; such as
            :func:`flash_internimage.backbones.flash_internimage.layer_ids`.
        layer_decay: ratio of the learning rates of a layer and the next deeper one; 1 for the same rate everywhere.
        offset_lr_scale: additional factor for layers that predict sampling offsets.

    Returns:
        Groups (``params``, ``lr``, ``weight_decay``), one for each combination that occurs.
    """
    names = [name for name, _ in model.named_parameters()]
    rules = parameter_rules(names)
    multipliers = layer_decay_multipliers(layer_ids(names), layer_decay, offset_lr_scale, rules)
    settings = {
        name: Setting(multipliers[name], weight_decay if is_decayed(name, parameter.dim(), rules) else 0.0)
        for name, parameter in model.named_parameters()
    }
    return group_parameters(model, settings, base_lr)


def get_named_groups(
    model: nn.Module, base_lr: float, weight_decay: float, lr_multipliers: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer parameter groups with learning rates by name; all parameters have weight decay, norms and biases included.

    Args:
        model: its parameters that require a gradient go into the groups, each once.
        base_lr: learning rate of parameters that match no entry.
        weight_decay: of all parameters.
        lr_multipliers: part of a name -> multiple of ``base_lr``.

    Returns:
        Groups (``params``, ``lr``, ``weight_decay``), one for each rate that occurs.

    Raises:
        UserError: an entry matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    settings = {name: Setting(named_multiplier(name, lr_multipliers), weight_decay) for name in names}
    for part in lr_multipliers:
        if not any(part in name for name in names):
            raise UserError(f"lr_multipliers: no parameter has {part!r} in its name; the first ones are {names[:3]}")
    return group_parameters(model, settings, base_lr)


def layer_decay_multipliers(
    layer_ids: Mapping[str, int], layer_decay: float, offset_lr_scale: float, rules: ParameterRules
) -> dict[str, float]:
    """Learning-rate multiplier of each parameter: one factor ``layer_decay`` per layer between it and the deepest layer.

    Args:
        layer_ids: name -> id; see :func:`get_layer_decay_groups`.
        layer_decay: factor per layer.
        offset_lr_scale: additional factor for the layers in ``rules.offset_layers``.
        rules: exceptions by name.
    """
    deepest = max(layer_ids.values())

    def multiplier(name: str) -> float:
        layer = 0 if _has_part(name, rules.at_stem_rate) else layer_ids[name]
        return layer_decay ** (deepest - layer) * (offset_lr_scale if _has_part(name, rules.offset_layers) else 1.0)

    return {name: multiplier(name) for name in layer_ids}


def named_multiplier(name: str, lr_multipliers: Mapping[str, float]) -> float:
    """Learning-rate multiplier of one parameter: the entry whose key is part of its name, the longest if several are."""
    matching = [part for part in lr_multipliers if part in name]
    return lr_multipliers[max(matching, key=len)] if matching else 1.0


def is_decayed(name: str, dimensions: int, rules: ParameterRules) -> bool:
    """Whether a parameter has weight decay under the published layer-decay rule."""
    return dimensions > 1 and not name.endswith(".bias") and not _has_part(name, ("norm", *rules.undecayed))


def group_parameters(model: nn.Module, settings: Mapping[str, Setting], base_lr: float) -> list[dict[str, Any]]:
    """Optimizer parameter groups, in the order in which their first parameters appear, without frozen parameters.

    Args:
        settings: for every name of ``model.named_parameters()``.
        base_lr: learning rate that the multipliers refer to.
    """
    groups: dict[Setting, dict[str, Any]] = {}
    for name, parameter in _trained(model.named_parameters()):
        setting = settings[name]
        if setting not in groups:
            groups[setting] = {
                "params": [],
                "lr": base_lr * setting.lr_multiplier,
                "weight_decay": setting.weight_decay,
            }
        groups[setting]["params"].append(parameter)
    return list(groups.values())


def _has_part(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)


def _trained(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in parameters if parameter.requires_grad)
