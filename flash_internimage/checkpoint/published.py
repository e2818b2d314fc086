"""Names in the published checkpoints (Hugging Face ``OpenGVLab/DCNv4``) and in this project's models.

The published detectors were saved by another framework: the weights are the same, the modules have other names. Nothing
else differs: classes come in the same order with the background last, box deltas are class-major (x, y, width, height),
and no weight is split or fused, so conversion renames and keeps every bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flash_internimage.errors import UserError

from .names import Table

T = TypeVar("T")

# A feature pyramid counts its levels from 0 there and from log2(stride) = 2 in detectron2.
# In a table the narrower template comes first: "fpn_lateral2.*" would also take "fpn_lateral2.norm.weight".
_FPN = [
    ("neck.lateral_convs.{i}.ln.*", "backbone.fpn_lateral{i+2}.norm.*"),
    ("neck.lateral_convs.{i}.conv.*", "backbone.fpn_lateral{i+2}.*"),
    ("neck.fpn_convs.{i}.ln.*", "backbone.fpn_output{i+2}.norm.*"),
    ("neck.fpn_convs.{i}.conv.*", "backbone.fpn_output{i+2}.*"),
]

_RPN = [
    ("rpn_head.rpn_conv.*", "proposal_generator.rpn_head.conv.*"),
    ("rpn_head.rpn_cls.*", "proposal_generator.rpn_head.objectness_logits.*"),
    ("rpn_head.rpn_reg.*", "proposal_generator.rpn_head.anchor_deltas.*"),
]

_MASK_RCNN = [
    ("backbone.*", "backbone.bottom_up.*"),
    *_FPN,
    *_RPN,
    ("roi_head.bbox_head.shared_fcs.{i}.*", "roi_heads.box_head.fc{i+1}.*"),
    ("roi_head.bbox_head.fc_cls.*", "roi_heads.box_predictor.cls_score.*"),
    ("roi_head.bbox_head.fc_reg.*", "roi_heads.box_predictor.bbox_pred.*"),
    ("roi_head.mask_head.convs.{i}.conv.*", "roi_heads.mask_head.mask_fcn{i+1}.*"),
    ("roi_head.mask_head.upsample.*", "roi_heads.mask_head.deconv.*"),
    ("roi_head.mask_head.conv_logits.*", "roi_heads.mask_head.predictor.*"),
]

# {s} is the stage.
_CASCADE = [
    ("backbone.*", "backbone.bottom_up.*"),
    *_FPN,
    *_RPN,
    ("roi_head.bbox_head.{s}.shared_convs.{i}.bn.*", "roi_heads.box_head.{s}.conv{i+1}.norm.*"),
    ("roi_head.bbox_head.{s}.shared_convs.{i}.conv.*", "roi_heads.box_head.{s}.conv{i+1}.*"),
    ("roi_head.bbox_head.{s}.shared_fcs.{i}.*", "roi_heads.box_head.{s}.fc{i+1}.*"),
    ("roi_head.bbox_head.{s}.fc_cls.*", "roi_heads.box_predictor.{s}.cls_score.*"),
    ("roi_head.bbox_head.{s}.fc_reg.*", "roi_heads.box_predictor.{s}.bbox_pred.*"),
    ("roi_head.mask_head.{s}.convs.{i}.conv.*", "roi_heads.mask_head.{s}.mask_fcn{i+1}.*"),
    ("roi_head.mask_head.{s}.upsample.*", "roi_heads.mask_head.{s}.deconv.*"),
    ("roi_head.mask_head.{s}.conv_logits.*", "roi_heads.mask_head.{s}.predictor.*"),
]

# {l} is the layer. Perceptrons count their activations too, as nn.Sequential does.
_DINO = [
    ("backbone.*", "backbone.*"),
    ("neck.convs.{i}.gn.*", "neck.convs.{i}.norm.*"),
    ("neck.convs.{i}.conv.*", "neck.convs.{i}.*"),
    ("neck.extra_convs.{i}.gn.*", "neck.extra_convs.{i}.norm.*"),
    ("neck.extra_convs.{i}.conv.*", "neck.extra_convs.{i}.*"),
    ("bbox_head.transformer.level_embeds", "transformer.level_embeds"),
    ("bbox_head.transformer.encoder.layers.{l}.attentions.0.*", "transformer.encoder.layers.{l}.self_attn.*"),
    ("bbox_head.transformer.encoder.layers.{l}.ffns.0.layers.0.0.*", "transformer.encoder.layers.{l}.feed_forward.0.*"),
    ("bbox_head.transformer.encoder.layers.{l}.ffns.0.layers.1.*", "transformer.encoder.layers.{l}.feed_forward.2.*"),
    ("bbox_head.transformer.encoder.layers.{l}.norms.{i}.*", "transformer.encoder.layers.{l}.norm{i+1}.*"),
    ("bbox_head.transformer.enc_output.*", "transformer.query_selection.projection.*"),
    ("bbox_head.transformer.enc_output_norm.*", "transformer.query_selection.norm.*"),
    ("bbox_head.transformer.query_embed.*", "transformer.query_embed.*"),
    ("bbox_head.transformer.decoder.layers.{l}.attentions.0.attn.*", "transformer.decoder.layers.{l}.self_attn.*"),
    ("bbox_head.transformer.decoder.layers.{l}.attentions.1.*", "transformer.decoder.layers.{l}.cross_attn.*"),
    ("bbox_head.transformer.decoder.layers.{l}.ffns.0.layers.0.0.*", "transformer.decoder.layers.{l}.feed_forward.0.*"),
    ("bbox_head.transformer.decoder.layers.{l}.ffns.0.layers.1.*", "transformer.decoder.layers.{l}.feed_forward.2.*"),
    ("bbox_head.transformer.decoder.layers.{l}.norms.{i}.*", "transformer.decoder.layers.{l}.norm{i+1}.*"),
    ("bbox_head.transformer.decoder.ref_point_head.*", "transformer.decoder.position_head.*"),
    ("bbox_head.transformer.decoder.norm.*", "transformer.decoder.norm.*"),
    ("bbox_head.cls_branches.{i}.*", "transformer.class_heads.{i}.*"),
    ("bbox_head.reg_branches.{i}.*", "transformer.box_heads.{i}.*"),
    ("bbox_head.label_embedding.*", "denoising.label_embedding.*"),
]


@dataclass(frozen=True)
class Family:
    """The published detectors that share one table of names.

    Attributes:
        title: what the family is called in messages.
        names: published name -> this project's.
        signature: a published tensor that this family has and no other.
    """

    title: str
    names: Table
    signature: str

    @property
    def our_signature(self) -> str:
        """The signature's name in this project's models."""
        return self.names.rename(self.signature)


FAMILIES = (
    Family("Mask R-CNN", Table.of(_MASK_RCNN), "roi_head.bbox_head.fc_cls.weight"),
    Family("Cascade Mask R-CNN", Table.of(_CASCADE), "roi_head.bbox_head.0.fc_cls.weight"),
    Family("DINO", Table.of(_DINO), "bbox_head.transformer.level_embeds"),
)


def published_family(names: Iterable[str]) -> Family | None:
    """The family whose published names these are, or None."""
    known = set(names)
    return next((family for family in FAMILIES if family.signature in known), None)


def detectron2_family(names: Iterable[str]) -> Family | None:
    """The family of a state dict of this project's models, or None."""
    known = set(names)
    return next((family for family in FAMILIES if family.our_signature in known), None)


def to_detectron2(state_dict: Mapping[str, T]) -> dict[str, T]:
    """A published detector's state dict under the names of this project's model, in the same order.

    Args:
        state_dict: published name -> value; any value (tensor, array, shape) is passed through.

    Raises:
        UserError: the names are not those of a published detector, or one of them has no counterpart.
    """
    family = published_family(state_dict)
    if family is None:
        raise UserError(_unknown(state_dict, "a published detector", [f.signature for f in FAMILIES]))
    return _renamed(state_dict, family.names, f"published {family.title} checkpoint")


def to_published(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The inverse of :func:`to_detectron2`.

    Raises:
        UserError: the names are not those of a model of this project, or one of them has no counterpart.
    """
    family = detectron2_family(state_dict)
    if family is None:
        raise UserError(_unknown(state_dict, "one of this project's detectors", [f.our_signature for f in FAMILIES]))
    return _renamed(state_dict, family.names.inverse, f"{family.title} state dict")


def _renamed(state_dict: Mapping[str, T], table: Table, what: str) -> dict[str, T]:
    renamed = table.rename_all(state_dict)
    unknown = [name for name in state_dict if name not in renamed]
    if unknown:
        raise UserError(f"{what}: {len(unknown)} names have no counterpart, for example {unknown[0]!r}")
    return {renamed[name]: value for name, value in state_dict.items()}


def _unknown(state_dict: Mapping[str, object], expected: str, signatures: list[str]) -> str:
    names = ", ".join(list(state_dict)[:3]) or "nothing"
    return f"expected the state dict of {expected} (with one of {', '.join(signatures)}), got one that starts with: {names}"
