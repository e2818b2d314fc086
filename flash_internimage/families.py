"""What the generic packages know of a model: each detector and each backbone describes itself once, beside its code.

``checkpoint``, ``solver`` and ``flash-internimage analyze`` name no detector. They look up a :class:`DetectorFamily` and the
:class:`BackboneFamily` of a model here, by the names of its tensors. A module registers its description when it is imported:
``flash_internimage.modeling`` and every package in ``flash_internimage.projects`` are imported on the first look-up, any
other package when a config imports it.

Names of tensors are given as templates (:mod:`flash_internimage.checkpoint.names`): ``{i}`` is an integer, ``{i+2}`` the
same integer plus two, and a final ``*`` is the rest of the name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Literal, TypeVar

from flash_internimage.errors import UserError

Part = Literal["neck", "proposals", "heads"]
"""The parts of a detector that ``flash-internimage analyze`` reports, beside its backbone."""


@dataclass(frozen=True)
class ParameterRules:
    """How the published recipes with layer-wise learning-rate decay treat some parameters; each tuple has parts of names.

    Attributes:
        offset_layers: layers that predict sampling offsets; their rate is multiplied by ``offset_lr_scale``.
        at_stem_rate: parameters with the learning rate of the backbone's stem, the lowest of all.
        undecayed: parameters without weight decay. Norms, biases and one-dimensional parameters never have it.
    """

    offset_layers: tuple[str, ...] = ()
    at_stem_rate: tuple[str, ...] = ()
    undecayed: tuple[str, ...] = ()

    def __or__(self, other: ParameterRules) -> ParameterRules:
        """The rules of both."""
        return ParameterRules(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class DetectorFamily:
    """The detectors that share one layout of tensor names.

    Attributes:
        title: name in messages.
        signature: name of a tensor that models of this family have and no others.
        class_layers: templates of the tensors whose first dimension depends on the number of classes. A checkpoint with
            another number of classes leaves them at their initial values.
        published_names: pairs of templates (name in the published checkpoints, name in the model). The first pair that
            matches decides, so the narrower template comes first. Empty if there are no published checkpoints.
        optional: paths of modules that a model may be configured without. A checkpoint that has them loads all the same.
        parameters: rules for the parameters of the detector, without its backbone.
        parts: path of a module -> the part to which the analysis counts it. The backbone, and a feature pyramid around it,
            need no entry.
        compiled: paths of modules that ``analyze --compile`` compiles, beside the backbone: functions of tensors alone.
    """

    title: str
    signature: str
    class_layers: tuple[str, ...]
    published_names: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()
    parameters: ParameterRules = ParameterRules()
    parts: Mapping[str, Part] = field(default_factory=dict)
    compiled: tuple[str, ...] = ()


@dataclass(frozen=True)
class BackboneFamily:
    """The backbones that share one layout of tensor names, which is also that of their ImageNet checkpoints.

    Attributes:
        title: name in messages.
        signature: name of a tensor, without a prefix, that these backbones have and no others.
        classifier: prefixes of what an ImageNet classifier has beside the backbone, which a detector does not load.
        parameters: rules for the parameters of the backbone.
    """

    title: str
    signature: str
    classifier: tuple[str, ...] = ()
    parameters: ParameterRules = ParameterRules()


F = TypeVar("F", DetectorFamily, BackboneFamily)
_registered: dict[str, DetectorFamily | BackboneFamily] = {}


def register(family: F) -> F:
    """Make a family known to the generic packages, and return it.

    Raises:
        UserError: another family has its title or its signature.
    """
    for other in _registered.values():
        if other != family and (other.title == family.title or other.signature == family.signature):
            raise UserError(
                f"family {family.title!r} with the signature {family.signature!r}: title and signature must be unique, and "
                f"{other.title!r} with the signature {other.signature!r} is registered"
            )
    _registered[family.title] = family
    return family


def detector_families() -> tuple[DetectorFamily, ...]:
    """All registered detector families."""
    _import_families()
    return tuple(family for family in _registered.values() if isinstance(family, DetectorFamily))


def backbone_families() -> tuple[BackboneFamily, ...]:
    """All registered backbone families."""
    _import_families()
    return tuple(family for family in _registered.values() if isinstance(family, BackboneFamily))


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
    """Import the packages whose modules register families. They import this module, so this one cannot import them first."""
    importlib.import_module("flash_internimage.modeling")
    projects = importlib.import_module("flash_internimage.projects")
    for project in pkgutil.iter_modules(projects.__path__):
        importlib.import_module(f"{projects.__name__}.{project.name}")
