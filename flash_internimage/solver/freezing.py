"""Freezing parts of a model by name: their weights and running statistics do not change in training."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Sequence
from types import MethodType

from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.plurals import counted

logger = logging.getLogger(__name__)


def freeze(model: nn.Module, parts: str | Sequence[str] | None) -> list[str]:
    """Freeze modules of a model, in place: their parameters get no gradient, and they stay in evaluation mode.

    In evaluation mode batch normalization keeps its running statistics, and dropout and stochastic depth are disabled. A
    copy of the model is frozen too.

    Args:
        model: a model whose optimizer is built afterwards.
        parts: name of a module or parameter, such as ``backbone``, or several; None freezes nothing.

    Returns:
        Names of the frozen parameters.

    Raises:
        UserError: there is no such module (the message suggests similar names), or nothing is left to train.
    """
    if parts is not None and (isinstance(parts, bool | int | float) or not all(isinstance(name, str) for name in parts)):
        raise UserError(
            f"train.freeze={parts}: expected the name of a module, such as backbone, or a list of names; for the first stages "
            "of the backbone set its freeze_at"
        )
    names = [] if parts is None else [parts] if isinstance(parts, str) else list(parts)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name in names:
        if not name or name not in modules.keys() | parameters.keys():
            raise UserError(f"train.freeze: the model has no module {name!r}; {_suggestions(str(name), modules)}")
        if name in modules:
            modules[name].requires_grad_(False)
            modules[name].train = MethodType(_stay_in_evaluation, modules[name])
            modules[name].eval()
        else:
            parameters[name].requires_grad_(False)
    if not names:
        return []
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"train.freeze={','.join(names)}: leaves no parameter to train; freeze fewer modules")
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    logger.info(
        "Frozen: %s, %d of %d parameter tensors (%.1f of %.1f million parameters)",
        ", ".join(names),
        len(frozen),
        len(parameters),
        _count(frozen) / 1e6,
        _count(model.parameters()) / 1e6,
    )
    return [key for key in parameters if any(key == name or key.startswith(f"{name}.") for name in names)]


def require_filled(setting: str, frozen: Collection[str], unfilled: Iterable[str], checkpoint: str, advice: str = "") -> None:
    """Raise an exception if a frozen tensor has kept its random initial value.

    Args:
        setting: the setting that freezes, for the message.
        frozen: names of frozen tensors, as :func:`freeze` returns them.
        unfilled: names of tensors that the checkpoint has not filled.
        checkpoint: its path, for the message; empty if there is none.
        advice: another way to go on than the checkpoint of a trained detector, for the message.

    Raises:
        UserError: the message names the first such tensors.
    """
    random = sorted(set(frozen) & set(unfilled))
    if random:
        raise UserError(
            f"{setting}: {counted(random, 'frozen tensor')} would keep random values ({', '.join(random[:3])}), which "
            f"{checkpoint or 'train.init_checkpoint (empty)'} does not have; start "
            f"from the checkpoint of a trained detector{advice and f', or {advice}'}"
        )


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replacement of ``train`` for a frozen module."""
    return type(module).train(module, False)


def _suggestions(name: str, known: Iterable[str]) -> str:
    """Modules that may be meant: with a similar name, or the same one inside another module."""
    names = [other for other in known if other]
    last = name.rsplit(".", 1)[-1]
    inside = [other for other in names if last and other.rsplit(".", 1)[-1] == last]
    shallow = [other for other in names if other.count(".") <= name.count(".")]
    near = [*inside[:3], *difflib.get_close_matches(name, shallow, n=3)]
    if near:
        return f"did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"it has {', '.join(other for other in names if '.' not in other)}"


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
