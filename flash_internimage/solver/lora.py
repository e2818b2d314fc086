"""LoRA: trainable low-rank adapters on the linear layers of a frozen backbone, with the ``peft`` library.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685.

A linear layer with weight W computes (W + alpha / rank * B A) x, where only A and B are trained. The ``state_dict`` of a model
with adapters is that of the detector without them, with the merged weights; :class:`Adapters` holds what a resumption needs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.family_lookup import detector_family
from flash_internimage.packages import require

logger = logging.getLogger(__name__)

_ADAPTER = "default"  # peft's name of a layer's only adapter
_BACKBONE = ("backbone.bottom_up", "backbone")  # the former inside a feature pyramid, which is trained as a whole


@dataclass(frozen=True)
class LoRAOptions:
    """Options of the adapters.

    Attributes:
        rank: rank of B A.
        alpha: the adapters are scaled by alpha / rank.
        dropout: probability of dropout on the inputs of the adapters.
    """

    rank: int
    alpha: float
    dropout: float

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> LoRAOptions | None:
        """Read ``train.lora``, which may lack values; None if it enables no adapters.

        Raises:
            UserError: a value is invalid.
        """
        given = section or {}
        rank, alpha, dropout = given.get("rank"), given.get("alpha"), given.get("dropout", 0.0)
        if rank is None:
            return None
        if not _is_number(rank) or not isinstance(rank, int) or rank < 1:
            raise UserError(f"train.lora.rank={rank}: expected an integer of 1 or more, such as 8, or null for no adapters")
        if alpha is not None and not (_is_number(alpha) and 0 < alpha < float("inf")):
            raise UserError(f"train.lora.alpha={alpha}: expected a number above 0, or null for the rank")
        if not (_is_number(dropout) and 0 <= dropout < 1):
            raise UserError(f"train.lora.dropout={dropout}: expected a probability of 0 or more and below 1")
        return cls(rank, float(rank if alpha is None else alpha), float(dropout))


def add_adapters(model: nn.Module, options: LoRAOptions) -> list[str]:
    """Freeze the backbone, and what the detector's family lists as ``adapted``; add adapters to their linear layers, in place.

    The rest of the detector (feature pyramid, heads) is trained as without adapters. Layers that are frozen already get none,
    and neither do those inside ``nn.MultiheadAttention``, which reads their weights directly. Initially B is zero, so that
    the outputs of the model do not change.

    Args:
        model: a detector with trained weights, not compiled or wrapped for distributed training.

    Returns:
        Names of the frozen parameters of adapted parts, as in ``model.state_dict()``.

    Raises:
        UserError: ``peft`` is not installed, or there is no layer to adapt.
    """
    peft = require("peft", f"train.lora.rank={options.rank}")
    parts = _adapted_parts(model)
    frozen = [f"{part}.{name}" for part in parts for name, _ in model.get_submodule(part).named_parameters()]
    adapted = 0
    for part in parts:
        module = model.get_submodule(part)
        names = _linear_layers(module)
        if names:
            # A list would match the ends of names too.
            target = "|".join(map(re.escape, names))
            config = peft.LoraConfig(
                r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=target
            )
            peft.inject_adapter_in_model(config, module)  # freezes all other parameters of the module
        module.requires_grad_(False)
        adapted += len(names)
    if not adapted:
        raise UserError(
            f"train.lora.rank={options.rank}: {_listed(parts) or 'the model'} has no linear layer to adapt that train.freeze "
            "and freeze_at leave unfrozen; set train.lora.rank=null or freeze less"
        )
    for _, layer in _adapted_layers(model):
        for adapter in (layer.lora_A, layer.lora_B):
            adapter.requires_grad_(True)
        layer.register_state_dict_post_hook(_merge)
        layer.register_load_state_dict_pre_hook(_restart)
    _log(model, parts, adapted, options)
    return frozen


class Adapters:
    """The adapters of a model and of its moving average, as a checkpoint holds them for an exact resumption.

    Merged weights are rounded, so the frozen ones are saved too: once, for the average shares them with the model.
    """

    def __init__(self, options: LoRAOptions, model: nn.Module, average: nn.Module | None = None) -> None:
        """
        Args:
            model: a model with adapters.
            average: its moving average, a copy of the model, complete with what a checkpoint has; None if there is none.
                From now on its frozen weights are those of the model, since their average does not change.
        """
        if average is not None:
            for (_, own), (_, copied) in zip(_adapted_layers(model), _adapted_layers(average), strict=True):
                copied.base_layer.weight = own.base_layer.weight
        self._options = options
        self._models = {"model": model} if average is None else {"model": model, "average": average}

    def state_dict(self) -> dict[str, Any]:
        """Return rank, alpha and the tensors by model: ``<layer>.lora_A``, ``.lora_B`` and, only once, ``.weight``."""
        return {"rank": self._options.rank, "alpha": self._options.alpha, **self._tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` has returned.

        Raises:
            UserError: it has adapters on other layers.
        """
        for name, own in self._tensors().items():
            saved = state.get(name, {})
            if own.keys() != saved.keys() or any(own[key].shape != saved[key].shape for key in own):
                raise UserError(
                    "--resume: the checkpoint has LoRA adapters on other layers; continue with the same model, train.freeze "
                    "and train.ema, or start another run from its weights with train.init_checkpoint"
                )
            for key, tensor in own.items():
                tensor.copy_(saved[key])

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of the adapted layers by model, detached."""
        tensors: dict[str, dict[str, Tensor]] = {name: {} for name in self._models}
        for name, model in self._models.items():
            for path, layer in _adapted_layers(model):
                if name == "model":
                    tensors[name][f"{path}.weight"] = layer.base_layer.weight.detach()
                tensors[name][f"{path}.lora_A"] = layer.lora_A[_ADAPTER].weight.detach()
                tensors[name][f"{path}.lora_B"] = layer.lora_B[_ADAPTER].weight.detach()
        return tensors


def require_same_adapters(state: Mapping[str, Any] | None, options: LoRAOptions | None) -> None:
    """Raise an exception if a checkpoint was saved with other adapters than those of the run that resumes from it.

    Args:
        state: of :class:`Adapters` in the checkpoint; None if it has none.
        options: of the run; None if it has no adapters.

    Raises:
        UserError: rank or alpha differ.
    """
    saved = None if state is None else (state["rank"], float(state["alpha"]))
    now = None if options is None else (options.rank, options.alpha)
    if saved != now:
        raise UserError(
            f"--resume: the checkpoint was saved {_described(saved)}, this run is configured {_described(now)}; continue with "
            "the same adapters, or start another run from its weights with train.init_checkpoint, which has them merged"
        )


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """W + scale * B A, computed in float64 and rounded once.

    Args:
        weight: (out, in) weight W of the frozen layer.
        lora_a: (rank, in).
        lora_b: (out, rank).
        scale: alpha / rank.
    """
    return (weight.double() + scale * (lora_b.double() @ lora_a.double())).to(weight.dtype)


def _adapted_parts(model: nn.Module) -> list[str]:
    """Paths of the modules whose linear layers get adapters."""
    paths = {path for path, _ in model.named_modules()}
    family = detector_family({name for name, _ in model.named_parameters()})
    backbone = [path for path in _BACKBONE if path in paths][:1]
    return backbone + [path for path in (() if family is None else family.adapted) if path in paths]


def _linear_layers(module: nn.Module) -> list[str]:
    """Names of the linear layers that adapters may replace."""
    attentions = [f"{name}." for name, child in module.named_modules() if isinstance(child, nn.MultiheadAttention)]
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and child.weight.requires_grad and not name.startswith(tuple(attentions))
    ]


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that peft has put around linear layers, with their names."""
    layers = require("peft.tuners.lora", "LoRA").Linear
    return ((name, module) for name, module in model.named_modules() if isinstance(module, layers))


def _merge(layer: Any, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Replace the tensors of an adapted layer in a state dict by those of the linear layer that is equivalent to it."""
    own = {key: state.pop(key) for key in [key for key in state if key.startswith(prefix)]}
    lora_a, lora_b = (own[f"{prefix}{name}.{_ADAPTER}.weight"].detach() for name in ("lora_A", "lora_B"))
    for name, _ in layer.base_layer.named_parameters():
        tensor = own[f"{prefix}base_layer.{name}"]
        merged = merged_weight(tensor.detach(), lora_a, lora_b, layer.scaling[_ADAPTER]) if name == "weight" else tensor
        state[f"{prefix}{name}"] = merged


def _restart(layer: Any, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load the state dict of a linear layer into an adapted layer, which then computes the same: B becomes zero."""
    for name, _parameter in layer.base_layer.named_parameters():
        if f"{prefix}{name}" in state:
            state[f"{prefix}base_layer.{name}"] = state.pop(f"{prefix}{name}")
    lora_a, lora_b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    state[f"{prefix}lora_A.{_ADAPTER}.weight"] = lora_a.detach()
    state[f"{prefix}lora_B.{_ADAPTER}.weight"] = torch.zeros_like(lora_b)


def _log(model: nn.Module, parts: Iterable[str], adapted: int, options: LoRAOptions) -> None:
    inside = [parameter for part in parts for parameter in model.get_submodule(part).parameters()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adapters = _count(parameter for parameter in inside if parameter.requires_grad)
    logger.info(
        "LoRA adapters of rank %d and alpha %g on %d linear layers of %s, whose own parameters are frozen; trained: %s "
        "parameters of adapters and %s of the other parts, beside %s frozen ones",
        options.rank,
        options.alpha,
        adapted,
        _listed(parts),
        f"{adapters:,}",
        f"{_count(trained) - adapters:,}",
        f"{_count(model.parameters()) - _count(trained):,}",
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(parts: Iterable[str]) -> str:
    return " and ".join(parts)


def _described(adapters: tuple[int, float] | None) -> str:
    if adapters is None:
        return "without LoRA adapters"
    return f"with LoRA adapters of rank {adapters[0]} and alpha {adapters[1]:g}"
