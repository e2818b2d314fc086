"""Which parameter learns at which rate, and which is decayed: the rules of the published recipes.

Two rules cover them. With layer-wise decay (:func:`get_layer_decay_groups`) the learning rate falls from the heads towards
the image; with multipliers by name (:func:`get_named_groups`) a part of the model has a rate of its own. Both are made to
be the ``params`` of an optimizer in a LazyConfig, like detectron2's ``get_default_optimizer_params``: the trainer sets
``optimizer.params.model``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from flash_internimage.errors import UserError

# The rules below look for parts of names. They are those of the published models and of this project's alike.
_OFFSETS = ("sampling_offsets", "reference_points", "offset_mask")
_UNDECAYED = ("norm", "relative_position", "sampling_offsets")


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

    Norms, biases and everything else of one dimension is not decayed.

    Args:
        model: its parameters that need a gradient go into the groups, each once.
        base_lr: learning rate of the heads.
        weight_decay: of what is decayed.
        layer_ids: all names -> name: id, where the ids grow from the image (0) to the heads; such as
            :func:`flash_internimage.modeling.backbone.flash_internimage.layer_ids`.
        layer_decay: ratio of the learning rates of a layer and the next deeper one; 1 for the same rate everywhere.
        offset_lr_scale: further factor on layers that predict sampling offsets.

    Returns:
        Groups (``params``, ``lr``, ``weight_decay``), one for each combination that occurs.
    """
    names = [name for name, _ in model.named_parameters()]
    multipliers = layer_decay_multipliers(layer_ids(names), layer_decay, offset_lr_scale)
    settings = {
        name: Setting(multipliers[name], weight_decay if is_decayed(name, parameter.dim()) else 0.0)
        for name, parameter in model.named_parameters()
    }
    return group_parameters(model, settings, base_lr)


def get_named_groups(
    model: nn.Module, base_lr: float, weight_decay: float, lr_multipliers: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer parameter groups with learning rates by name; everything is decayed, norms and biases included.

    Args:
        model: its parameters that need a gradient go into the groups, each once.
        base_lr: learning rate of what no entry names.
        weight_decay: of all parameters.
        lr_multipliers: part of a name -> multiple of ``base_lr``.

    Returns:
        Groups (``params``, ``lr``, ``weight_decay``), one for each rate that occurs.

    Raises:
        UserError: an entry names no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    settings = {name: Setting(named_multiplier(name, lr_multipliers), weight_decay) for name in names}
    for part in lr_multipliers:
        if not any(part in name for name in names):
            raise UserError(f"lr_multipliers: no parameter has {part!r} in its name; the first ones are {names[:3]}")
    return group_parameters(model, settings, base_lr)


def layer_decay_multipliers(layer_ids: Mapping[str, int], layer_decay: float, offset_lr_scale: float = 1.0) -> dict[str, float]:
    """Learning-rate multiplier of each parameter: ``layer_decay`` once for every layer between it and the deepest.

    Args:
        layer_ids: name -> id; see :func:`get_layer_decay_groups`.
        layer_decay: factor a layer.
        offset_lr_scale: further factor on layers that predict sampling offsets (not on what lies before them).
    """
    deepest = max(layer_ids.values())

    def multiplier(name: str) -> float:
        # The published recipes give the level embedding of the transformer the lowest rate, that of the stem.
        layer = 0 if "level_embeds" in name else layer_ids[name]
        predicts_offsets = any(part in name for part in _OFFSETS) and "offset_mask_dw" not in name
        return layer_decay ** (deepest - layer) * (offset_lr_scale if predicts_offsets else 1.0)

    return {name: multiplier(name) for name in layer_ids}


def named_multiplier(name: str, lr_multipliers: Mapping[str, float]) -> float:
    """Learning-rate multiplier of one parameter: the entry whose key is part of its name, the longest if several are."""
    matching = [part for part in lr_multipliers if part in name]
    return lr_multipliers[max(matching, key=len)] if matching else 1.0


def is_decayed(name: str, dimensions: int) -> bool:
    """Whether weight decay applies to a parameter under the published layer-decay rule."""
    return dimensions > 1 and not name.endswith(".bias") and not any(part in name for part in _UNDECAYED)


def group_parameters(model: nn.Module, settings: Mapping[str, Setting], base_lr: float) -> list[dict[str, Any]]:
    """Optimizer parameter groups, in the order in which their first parameters appear; frozen parameters are left out.

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


def _trained(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in parameters if parameter.requires_grad)
