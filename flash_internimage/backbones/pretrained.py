"""Loading a backbone alone, without a detector around it, from any checkpoint that contains it."""

from __future__ import annotations

import re

from torch import nn

from flash_internimage.checkpoint import CheckpointError, hub
from flash_internimage.checkpoint.formats import state_dict_of
from flash_internimage.checkpoint.matching import examples
from flash_internimage.checkpoint.reading import read_checkpoint
from flash_internimage.plurals import counted

from .flash_internimage import FLASH_INTERNIMAGE

_STAGE = re.compile(r"levels\.(\d+)\.(downsample\.)?")


def load_backbone(model: nn.Module, path: str) -> None:
    """Load a FlashInternImage backbone from a checkpoint of the backbone, of an ImageNet classifier or of a detector.

    Args:
        model: a backbone; stages that it does not have are left in the file.
        path: a local path or ``hf://…``.

    Raises:
        CheckpointError: the file cannot be read, has no such backbone or more than one, or does not fit the model.
    """
    tensors = state_dict_of(read_checkpoint(hub.fetch(path) if path.startswith(hub.PREFIX) else path))
    signature = FLASH_INTERNIMAGE.signature
    prefixes = [name.removesuffix(signature) for name in tensors if name == signature or name.endswith(f".{signature}")]
    if len(prefixes) != 1:
        raise CheckpointError(f"checkpoint {path}: expected one {FLASH_INTERNIMAGE.title} backbone in it, got {len(prefixes)}")
    expected = model.state_dict()
    stages = 1 + max(int(found[1]) for name in expected if (found := _STAGE.match(name)))
    backbone = {name.removeprefix(prefixes[0]): tensor for name, tensor in tensors.items() if name.startswith(prefixes[0])}
    state = {
        name: tensor
        for name, tensor in backbone.items()
        if not name.startswith(FLASH_INTERNIMAGE.classifier) and _first_stage(name) < stages
    }
    different = sorted(
        name
        for name in {*expected, *state}
        if name not in expected or name not in state or expected[name].shape != state[name].shape
    )
    if different:
        raise CheckpointError(
            f"checkpoint {path}: its backbone is another than the model's, {counted(different, 'tensor is', 'tensors are')} "
            f"missing, too many or of another shape ({examples(different)}); give a checkpoint of the same size (t, s, b, l)"
        )
    model.load_state_dict(state)


def _first_stage(name: str) -> int:
    """Index of the first stage that needs a tensor: a downsampling layer belongs to the stage that it leads to."""
    found = _STAGE.match(name)
    return 0 if found is None else int(found[1]) + (found[2] is not None)
