"""Recognizing what a checkpoint file holds, by its contents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from flash_internimage.families import BackboneFamily
from flash_internimage.family_lookup import backbone_families

from .published import published_family, to_detectron2
from .reading import CheckpointError

T = TypeVar("T")

# MMDetection's EMA hook swaps the averaged weights into the model before it saves: the plain names hold the averages, and
# the copies under this prefix are the weights of the last step.
_COPY = "ema_"

# torch.compile wraps a module in one that has it as this attribute, so the name appears at every compiled module of a model.
_COMPILED = "_orig_mod"


@dataclass(frozen=True)
class Recognized:
    """A checkpoint's tensors under this project's names.

    Attributes:
        title: what was found, for messages: "published Mask R-CNN checkpoint".
        tensors: name -> tensor.
        dropped: names in the file that no detector has: an ImageNet classifier's head, the copies of an EMA hook.
        whole: whether the file should hold every tensor of a model; False for backbones.
    """

    title: str
    tensors: dict[str, torch.Tensor]
    dropped: tuple[str, ...] = ()
    whole: bool = True


def recognize(contents: Mapping[str, Any], model_names: Collection[str]) -> Recognized:
    """Recognize the kind of a checkpoint and rename its tensors to the names of the model.

    Known are this project's own checkpoints (``model``), published detectors (``state_dict`` with ``meta``, and perhaps
    ``optimizer`` and averaged copies ``ema_*``), published ImageNet classifiers (``model`` or ``state_dict``), and plain
    state dicts, each with or without the names that ``torch.compile`` and ``DistributedDataParallel`` add.

    Args:
        contents: as returned by :func:`.reading.read_checkpoint`.
        model_names: the names in the state dict of the model that is to be loaded.

    Raises:
        CheckpointError: there are no tensors in it, or a backbone is given for a model that has none.
    """
    tensors = state_dict_of(contents)
    family = published_family(tensors)
    if family is not None:
        copies = tuple(name for name in _unwrapped(_inner(contents)) if name.startswith(_COPY))
        return Recognized(f"published {family.title} checkpoint", to_detectron2(tensors), copies)
    for backbone in backbone_families():
        if backbone.signature in tensors and backbone.signature not in model_names:
            return _recognize_backbone(tensors, backbone, model_names)
    title = "checkpoint of this project" if "model" in contents else "state dict"
    return Recognized(title, tensors)


def state_dict_of(contents: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's tensors, wherever the file keeps them, under their plain names and without an EMA hook's copies.

    Plain names have neither the ``_orig_mod`` of compiled modules, anywhere in the name, nor a ``module.`` before all names.

    Raises:
        CheckpointError: the file has no tensors, or two tensors have the same plain name.
    """
    tensors = {name: value for name, value in _inner(contents).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"the checkpoint holds no tensors, only: {', '.join(map(str, list(contents)[:8])) or 'nothing'}")
    return {name: value for name, value in _unwrapped(tensors).items() if not name.startswith(_COPY)}


def uncompiled_name(name: str) -> str:
    """The name that a tensor has without ``torch.compile``: ``backbone._orig_mod.stem.weight`` is ``backbone.stem.weight``."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def class_names_of(contents: Mapping[str, Any]) -> list[str] | None:
    """The class names in a checkpoint: this project's ``classes`` or MMDetection's ``meta["CLASSES"]``; None without any.

    Raises:
        CheckpointError: the class names are not a list of strings.
    """
    meta = contents.get("meta")
    names = contents.get("classes")
    if names is None and isinstance(meta, Mapping):
        names = meta.get("CLASSES")
    if names is None:
        return None
    if not isinstance(names, list | tuple):
        raise CheckpointError(f"the checkpoint's class names should be a list of text, got one {type(names).__name__}")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise CheckpointError(f"the checkpoint's class names should be a list of text, but include one {type(wrong).__name__}")
    return list(names) or None


def _inner(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((contents[key] for key in ("model", "state_dict") if isinstance(contents.get(key), Mapping)), contents)


def _unwrapped(tensors: Mapping[str, T]) -> dict[str, T]:
    """Remove from the names what ``torch.compile`` and then what ``DistributedDataParallel`` add, in either order."""
    unwrapped: dict[str, T] = {}
    for name, value in tensors.items():
        plain = uncompiled_name(name)
        if plain in unwrapped:
            raise CheckpointError(f"the checkpoint holds {plain} twice, once of them as {name}; remove one of the two")
        unwrapped[plain] = value
    if all(name.startswith("module.") for name in unwrapped):
        unwrapped = {name.removeprefix("module."): value for name, value in unwrapped.items()}
    return unwrapped


def _recognize_backbone(
    tensors: Mapping[str, torch.Tensor], backbone: BackboneFamily, model_names: Collection[str]
) -> Recognized:
    """Put the prefix of the model's only backbone before every name, and drop the classifier's head."""
    prefixes = [name.removesuffix(backbone.signature) for name in model_names if name.endswith(f".{backbone.signature}")]
    if len(prefixes) != 1:
        raise CheckpointError(
            f"the checkpoint is a {backbone.title} backbone, and the model has {len(prefixes)} such backbones to load"
        )
    dropped = tuple(name for name in tensors if name.startswith(backbone.classifier))
    kept = {prefixes[0] + name: tensor for name, tensor in tensors.items() if name not in dropped}
    return Recognized("ImageNet backbone", kept, dropped, whole=False)
