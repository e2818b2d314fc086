"""What a checkpoint file is, told from its contents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .published import published_family, to_detectron2
from .reading import CheckpointError

# The first tensor of a FlashInternImage; what stands before it in a name is where the backbone lives in a model.
_STEM = "patch_embed.conv1.weight"
# The original framework's averaging hook swaps the averages into the model before it saves: the plain names hold them, and
# the copies under this prefix are the weights of the last step.
_COPY = "ema_"
# What the ImageNet classifiers have after the backbone.
_CLASSIFIER = ("head.", "conv_head.", "fc_norm.", "avgpool.")


@dataclass(frozen=True)
class Recognised:
    """A checkpoint's tensors under this project's names.

    Attributes:
        title: what was found, for messages: "published Mask R-CNN checkpoint".
        tensors: name -> tensor.
        dropped: names in the file that no detector has: a classifier's head, copies kept by an averaging hook.
        whole: whether the file claims to hold every tensor of a model, as all but backbones do.
    """

    title: str
    tensors: dict[str, torch.Tensor]
    dropped: tuple[str, ...] = ()
    whole: bool = True


def recognize(contents: Mapping[str, Any], model_names: Collection[str]) -> Recognised:
    """Tell the kinds of checkpoints apart and bring their tensors under the names of the model.

    Known are this project's own checkpoints (``model``), published detectors (``state_dict`` with ``meta``, and perhaps
    ``optimizer`` and averaged copies ``ema_*``), published ImageNet classifiers (``model`` or ``state_dict``), and plain
    state dicts, each with or without a ``module.`` before every name.

    Args:
        contents: what :func:`.reading.read_checkpoint` returned.
        model_names: the names in the state dict of the model that is to be loaded.

    Raises:
        CheckpointError: there are no tensors in it, or a backbone is given for a model that has none.
    """
    tensors = state_dict_of(contents)
    family = published_family(tensors)
    if family is not None:
        copies = tuple(name for name in _inner(contents) if name.startswith(_COPY))
        return Recognised(f"published {family.title} checkpoint", to_detectron2(tensors), copies)
    if _STEM in tensors and _STEM not in model_names:
        return _backbone(tensors, _backbone_prefix(model_names))
    title = "checkpoint of this project" if "model" in contents else "state dict"
    return Recognised(title, tensors)


def state_dict_of(contents: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's tensors, wherever the file keeps them, without ``module.`` and without an averaging hook's copies.

    Raises:
        CheckpointError: there are none.
    """
    tensors = {name: value for name, value in _inner(contents).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"the checkpoint holds no tensors, only: {', '.join(map(str, list(contents)[:8])) or 'nothing'}")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not name.startswith(_COPY)}


def _inner(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((contents[key] for key in ("model", "state_dict") if isinstance(contents.get(key), Mapping)), contents)


def _backbone_prefix(model_names: Collection[str]) -> str:
    prefixes = [name.removesuffix(_STEM) for name in model_names if name.endswith(f".{_STEM}")]
    if len(prefixes) != 1:
        raise CheckpointError(
            f"the checkpoint is a FlashInternImage backbone, and the model has {len(prefixes)} such backbones to load"
        )
    return prefixes[0]


def _backbone(tensors: Mapping[str, torch.Tensor], prefix: str) -> Recognised:
    dropped = tuple(name for name in tensors if name.startswith(_CLASSIFIER))
    kept = {prefix + name: tensor for name, tensor in tensors.items() if name not in dropped}
    return Recognised("ImageNet backbone", kept, dropped, whole=False)
