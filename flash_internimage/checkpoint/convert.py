"""Converting checkpoint files between the published tensor names and this project's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from flash_internimage.families import DetectorFamily
from flash_internimage.family_lookup import detector_family
from flash_internimage.files import write_atomically
from flash_internimage.path_manager import PathManager

from . import hub
from .formats import class_names_of, state_dict_of
from .published import published_family, to_detectron2, to_published
from .reading import CheckpointError, read_checkpoint

Direction = Literal["detectron2", "published"]
SUFFIXES = (".pth", ".safetensors")

hub.register(PathManager)


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Direction = "detectron2",
    *,
    allow: Iterable[str] = (),
    force: bool = False,
) -> DetectorFamily:
    """Write a detector's weights under the published names or under this project's; a round trip is bit-exact.

    Tensors are memory-mapped from ``source`` and written one after the other, so files larger than the memory can be
    converted. Only the weights and the class names are kept: the state of an optimizer depends on the names that it was
    saved with.

    Args:
        source: a ``.pth`` or ``.safetensors`` file, or ``hf://org/repo/file``.
        target: the file to write, ``.pth`` or ``.safetensors``, in one step when it is complete.
        to: ``detectron2`` for this project's names, ``published`` for those of the published checkpoints.
        allow: see :func:`.reading.read_checkpoint`.
        force: overwrite ``target`` if it exists.

    Returns:
        The family of the detector.

    Raises:
        CheckpointError: ``source`` cannot be read, belongs to no registered family or has the wanted names already; or
            ``target`` exists, has another suffix or its folder does not exist.
    """
    target = Path(target)
    _check_target(target, force)
    source = PathManager.get_local_path(os.fspath(source))
    contents = read_checkpoint(source, allow)
    try:
        tensors, classes = state_dict_of(contents), class_names_of(contents)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {source}: {error}") from error
    published, ours = published_family(tensors), detector_family(tensors)
    family, known = (published, ours) if to == "detectron2" else (ours, published)
    if family is None:
        state = f"it has these names already (a {known.title})" if known else "it is of no detector of this project"
        raise CheckpointError(f"checkpoint {source}: cannot convert to {to} names, {state}")
    try:
        renamed = to_detectron2(tensors) if to == "detectron2" else to_published(tensors)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {source}: {error}") from error
    _write(target, renamed, classes, to)
    return family


def write_safetensors(target: Path, tensors: Mapping[str, torch.Tensor], classes: Sequence[str] | None) -> None:
    """Write tensors to a ``.safetensors`` file, with the class names, if there are any, as JSON in its metadata."""
    from safetensors.torch import save_file

    metadata = {"format": "pt", **({"classes": json.dumps(list(classes))} if classes else {})}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(target, lambda path: save_file(contiguous, path, metadata=metadata))


def _check_target(target: Path, force: bool) -> None:
    if target.suffix not in SUFFIXES:
        raise CheckpointError(f"{target}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise CheckpointError(f"{target}: the folder {target.parent} does not exist; make it first")
    if target.exists() and not force:
        raise CheckpointError(f"{target} exists; give --force (force=True) to overwrite it")


def _write(target: Path, tensors: dict[str, torch.Tensor], classes: list[str] | None, to: Direction) -> None:
    if target.suffix == ".safetensors":
        write_safetensors(target, tensors, classes)
        return
    if to == "detectron2":
        contents = {"model": tensors, **({"classes": classes} if classes else {})}
    else:
        contents = {"meta": {"CLASSES": tuple(classes)} if classes else {}, "state_dict": tensors}
    write_atomically(target, lambda path: torch.save(contents, path))
