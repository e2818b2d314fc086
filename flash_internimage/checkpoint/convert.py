"""Converting checkpoint files between the published names and this project's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from detectron2.utils.file_io import PathManager

from flash_internimage.files import write_atomically

from .formats import state_dict_of
from .published import Family, detectron2_family, published_family, to_detectron2, to_published
from .reading import CheckpointError, read_checkpoint

Direction = Literal["detectron2", "published"]
SUFFIXES = (".pth", ".safetensors")


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Direction = "detectron2",
    *,
    allow: Iterable[str] = (),
    force: bool = False,
) -> Family:
    """Write a detector's weights under the other names; there and back gives the same bits.

    Tensors are mapped from ``source`` and written one after the other, so that a file larger than the memory converts.
    Only the weights and the class names go over: the state of an optimizer is bound to the names that it was saved with.

    Args:
        source: a ``.pth`` or ``.safetensors`` file, or ``hf://org/repo/file``.
        target: the file to write, ``.pth`` or ``.safetensors`` (tensors alone); it appears only when it is complete.
        to: ``detectron2`` for this project's names, ``published`` for those of the published checkpoints.
        allow: see :func:`.reading.read_checkpoint`.
        force: overwrite ``target`` if it exists.

    Returns:
        The family of the detector.

    Raises:
        CheckpointError: ``source`` cannot be read, is of no known family or has those names already; or ``target`` exists,
            has another ending or lies in no folder.
    """
    target = Path(target)
    _check_target(target, force)
    source = PathManager.get_local_path(os.fspath(source))
    contents = read_checkpoint(source, allow)
    tensors = state_dict_of(contents)
    family_of, other_family_of = (published_family, detectron2_family)[:: 1 if to == "detectron2" else -1]
    family = family_of(tensors)
    if family is None:
        known = other_family_of(tensors)
        state = f"it has these names already (a {known.title})" if known else "it is of no detector of this project"
        raise CheckpointError(f"checkpoint {source}: cannot convert to {to} names, {state}")
    try:
        renamed = to_detectron2(tensors) if to == "detectron2" else to_published(tensors)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {source}: {error}") from error
    _write(target, renamed, _class_names(contents), to)
    return family


def _check_target(target: Path, force: bool) -> None:
    if target.suffix not in SUFFIXES:
        raise CheckpointError(f"{target}: expected a file name that ends in {' or '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise CheckpointError(f"{target}: the folder {target.parent} does not exist; make it first")
    if target.exists() and not force:
        raise CheckpointError(f"{target} exists; give --force (force=True) to overwrite it")


def _class_names(contents: Mapping[str, Any]) -> list[str] | None:
    """Class names from this project's ``classes`` or from the published ``meta``."""
    meta = contents.get("meta")
    names = contents.get("classes") or (meta.get("CLASSES") if isinstance(meta, Mapping) else None)
    return list(names) if names else None


def _write(target: Path, tensors: dict[str, torch.Tensor], classes: list[str] | None, to: Direction) -> None:
    if target.suffix == ".safetensors":
        from safetensors.torch import save_file

        write_atomically(target, lambda path: save_file({name: t.contiguous() for name, t in tensors.items()}, path))
        return
    if to == "detectron2":
        contents = {"model": tensors, **({"classes": classes} if classes else {})}
    else:
        contents = {"meta": {"CLASSES": tuple(classes)} if classes else {}, "state_dict": tensors}
    write_atomically(target, lambda path: torch.save(contents, path))
