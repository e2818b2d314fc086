"""Descriptions of detectors and backbones, with which generic packages work on models that they do not name.

Each detector and each backbone describes itself once, beside its code, as a :class:`DetectorFamily` or a
:class:`BackboneFamily`, and registers when it is imported. ``checkpoint``, ``solver`` and ``flash-internimage analyze`` find
the descriptions of a model in :mod:`flash_internimage.family_lookup`.

Names of tensors are given as templates (:mod:`flash_internimage.checkpoint.names`): ``{i}`` is an integer, ``{i+2}`` the
same integer plus two, and a final ``*`` is the rest of the name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from flash_internimage.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from flash_internimage.structures import DetectionTensors

Part = Literal["neck", "proposals", "heads"]
"""The parts of a detector that ``flash-internimage analyze`` reports, beside its backbone."""

DetectTensors: TypeAlias = "Callable[[Any, Tensor, Tensor, int | None], DetectionTensors]"
"""Function (model, images, sizes, max_detections) -> detections.

``images`` (N, 3, H, W) are pixels on the scale of 0..255, ``sizes`` (N, 2) the (height, width) of each image within H and W.
At most ``max_detections`` are returned per image; None is the model's own maximum. The function must be traceable by
``torch.export`` with dynamic H and W: no branch and no size may depend on the values of tensors.
"""


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
        adapted: paths of modules whose linear layers LoRA adapts, beside those of the backbone. The rest is trained as usual.
        compiled: paths of modules that ``analyze --compile`` compiles, beside the backbone: functions of tensors alone.
        detect: the detector as a function of tensors, for export; None if it cannot be exported.
        smallest_side: function of the model that returns the smallest side, in pixels, from which on ``detect`` has the same
            graph for all sizes; None if this holds for any size.
    """

    title: str
    signature: str
    class_layers: tuple[str, ...]
    published_names: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()
    parameters: ParameterRules = ParameterRules()
    parts: Mapping[str, Part] = field(default_factory=dict)
    adapted: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()
    detect: DetectTensors | None = None
    smallest_side: Callable[[Any], int] | None = None


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
REGISTERED: dict[str, DetectorFamily | BackboneFamily] = {}
"""All registered families, by title."""


def register(family: F) -> F:
    """Make a family known to the generic packages, and return it.

    Raises:
        UserError: another family has its title or its signature.
    """
    for other in REGISTERED.values():
        if other != family and (other.title == family.title or other.signature == family.signature):
            raise UserError(
                f"family {family.title!r} with the signature {family.signature!r}: title and signature must be unique, and "
                f"{other.title!r} with the signature {other.signature!r} is registered"
            )
    REGISTERED[family.title] = family
    return family
