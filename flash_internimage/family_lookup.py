"""Finds the descriptions of a model's detector and backbone (:mod:`flash_internimage.families`) by its tensor names.

``flash_internimage.modeling`` and every package in ``flash_internimage.projects`` are imported on the first look-up; any other
package registers its families when a config imports it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection
from functools import cache

from .families import REGISTERED, BackboneFamily, DetectorFamily, ParameterRules


def detector_families() -> tuple[DetectorFamily, ...]:
    """All registered detector families."""
    _import_families()
    return tuple(family for family in REGISTERED.values() if isinstance(family, DetectorFamily))


def backbone_families() -> tuple[BackboneFamily, ...]:
    """All registered backbone families."""
    _import_families()
    return tuple(family for family in REGISTERED.values() if isinstance(family, BackboneFamily))


def detector_family(names: Collection[str]) -> DetectorFamily | None:
    """The family of a model, by the names of its tensors; None if none is registered for it."""
    return next((family for family in detector_families() if family.signature in names), None)


def parameter_rules(names: Collection[str]) -> ParameterRules:
    """The rules for the parameters of a model: those of its backbones and those of its detector family."""
    rules = ParameterRules()
    for backbone in backbone_families():
        if any(name == backbone.signature or name.endswith(f".{backbone.signature}") for name in names):
            rules |= backbone.parameters
    family = detector_family(names)
    return rules if family is None else rules | family.parameters


@cache
def _import_families() -> None:
    """Import the packages whose modules register families, when the first look-up needs them: they import torch."""
    importlib.import_module("flash_internimage.modeling")
    projects = importlib.import_module("flash_internimage.projects")
    for project in pkgutil.iter_modules(projects.__path__):
        importlib.import_module(f"{projects.__name__}.{project.name}")
