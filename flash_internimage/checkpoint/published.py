"""Names in the published checkpoints (Hugging Face ``OpenGVLab/DCNv4``) and in this project's models.

The published detectors were trained in MMDetection: the weights are the same, the modules have other names. Nothing else
differs: classes come in the same order with the background last, box deltas are class-major (x, y, width, height), and no
weight is split or fused, so conversion only renames tensors and is bit-exact. The table of names of each detector is part of
its family (:mod:`flash_internimage.families`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from flash_internimage.errors import UserError
from flash_internimage.families import DetectorFamily
from flash_internimage.family_lookup import detector_families, detector_family
from flash_internimage.plurals import counted

from .names import Table

T = TypeVar("T")


def name_table(family: DetectorFamily) -> Table:
    """The table published name -> name in the model; empty for a family without published checkpoints."""
    return Table.of(family.published_names)


def published_signature(family: DetectorFamily) -> str | None:
    """The published name of a family's signature; None without published checkpoints."""
    return name_table(family).inverse.rename(family.signature)


def published_family(names: Iterable[str]) -> DetectorFamily | None:
    """The family of a published checkpoint, by its tensor names; None if they are not those of a published detector."""
    known = set(names)
    return next((family for family in detector_families() if published_signature(family) in known), None)


def to_detectron2(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the state dict of a published detector to the names of this project's model, in the same order.

    Args:
        state_dict: published name -> value; any value (tensor, array, shape) is passed through.

    Raises:
        UserError: the names are not those of a published detector, or one of them has no counterpart.
    """
    family = published_family(state_dict)
    if family is None:
        signatures = [name for family in detector_families() if (name := published_signature(family)) is not None]
        raise UserError(_unknown(state_dict, "a published detector", signatures))
    return _renamed(state_dict, name_table(family), f"published {family.title} checkpoint")


def to_published(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the state dict of one of this project's models to the published names; inverse of :func:`to_detectron2`.

    Raises:
        UserError: the names are not those of a model of this project, its family has no published names, or one of the
            names has no counterpart.
    """
    family = detector_family(state_dict.keys())
    if family is None:
        signatures = [family.signature for family in detector_families()]
        raise UserError(_unknown(state_dict, "one of this project's detectors", signatures))
    if not family.published_names:
        raise UserError(f"{family.title} state dict: this detector has no published checkpoints, and so no published names")
    return _renamed(state_dict, name_table(family).inverse, f"{family.title} state dict")


def _renamed(state_dict: Mapping[str, T], table: Table, what: str) -> dict[str, T]:
    renamed = table.rename_all(state_dict)
    unknown = [name for name in state_dict if name not in renamed]
    if unknown:
        raise UserError(f"{what}: {counted(unknown, 'name has', 'names have')} no counterpart, for example {unknown[0]!r}")
    return {renamed[name]: value for name, value in state_dict.items()}


def _unknown(state_dict: Mapping[str, object], expected: str, signatures: list[str]) -> str:
    names = ", ".join(list(state_dict)[:3]) or "nothing"
    return f"expected the state dict of {expected} (with one of {', '.join(signatures)}), got one that starts with: {names}"
