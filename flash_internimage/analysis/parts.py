"""Divides the cost of a detector into parts that all detectors have, so that their costs can be compared.

The parts are:

- ``backbone``: the backbone proper, for instance FlashInternImage;
- ``neck``: feature pyramid, or DINO's channel mapper;
- ``proposals``: region proposals, or DINO's encoder and query selection;
- ``heads``: box and mask heads with pooling and NMS, or DINO's decoder;
- ``rest``: what belongs to no module of the others, such as normalization of images and pasting of masks.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from flash_internimage.families import DetectorFamily
from flash_internimage.family_lookup import detector_family

PARTS = ("backbone", "neck", "proposals", "heads", "rest")


def family_of(model: nn.Module) -> DetectorFamily | None:
    """Return the detector family of a model, or None if none is registered for it."""
    return detector_family({name for name, _ in model.named_parameters()})


def part_of_module(model: nn.Module) -> dict[str, str]:
    """Return the part to which each of a detector's modules belongs, by path; what is in none of them is the rest.

    Every detectron2 detector has a ``backbone``, which may be a feature pyramid around the backbone proper. The other parts
    are those of the detector's family.
    """
    paths = {path for path, _ in model.named_modules()}
    parts = (
        {"backbone": "neck", "backbone.bottom_up": "backbone"} if "backbone.bottom_up" in paths else {"backbone": "backbone"}
    )
    family = family_of(model)
    if family is not None:
        parts |= family.parts
    return {path: part for path, part in parts.items() if path in paths}


def sum_by_part(model: nn.Module, costs: Mapping[str, float]) -> dict[str, float]:
    """Sum up the costs of modules by part.

    Args:
        costs: cost of each module, with that of the modules inside it, by path; ``""`` is the whole model.

    Returns:
        The cost of each part, of ``rest``, and under ``""`` of the whole.
    """
    sums = {"": costs[""], **dict.fromkeys(PARTS, 0.0)}
    parts = part_of_module(model)
    for path, part in parts.items():
        inside = sum(costs.get(other, 0) for other in parts if other.startswith(f"{path}."))
        sums[part] += costs.get(path, 0) - inside
    sums["rest"] = costs[""] - sum(sums[part] for part in PARTS[:-1])
    return sums
