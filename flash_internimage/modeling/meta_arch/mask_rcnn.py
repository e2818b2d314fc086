"""The family of Mask R-CNN: how its tensors are named, and what depends on the number of classes.

What does not depend on the number of stages is shared with Cascade Mask R-CNN.
"""

from __future__ import annotations

from flash_internimage.families import DetectorFamily, Part, register

from .rcnn import RCNN

# MMDetection counts the levels of a pyramid from 0, detectron2 from log2(stride) = 2.
# The narrower template comes first: "fpn_lateral2.*" would also match "fpn_lateral2.norm.weight".
FPN_NAMES = (
    ("neck.lateral_convs.{i}.ln.*", "backbone.fpn_lateral{i+2}.norm.*"),
    ("neck.lateral_convs.{i}.conv.*", "backbone.fpn_lateral{i+2}.*"),
    ("neck.fpn_convs.{i}.ln.*", "backbone.fpn_output{i+2}.norm.*"),
    ("neck.fpn_convs.{i}.conv.*", "backbone.fpn_output{i+2}.*"),
)

RPN_NAMES = (
    ("rpn_head.rpn_conv.*", "proposal_generator.rpn_head.conv.*"),
    ("rpn_head.rpn_cls.*", "proposal_generator.rpn_head.objectness_logits.*"),
    ("rpn_head.rpn_reg.*", "proposal_generator.rpn_head.anchor_deltas.*"),
)

TWO_STAGE_PARTS: dict[str, Part] = {"proposal_generator": "proposals", "roi_heads": "heads"}

# Without masks in the dataset, a config sets the mask head to null.
TWO_STAGE_OPTIONAL = ("roi_heads.mask_head",)

MASK_RCNN = register(
    DetectorFamily(
        title="Mask R-CNN",
        signature="roi_heads.box_predictor.cls_score.weight",
        class_layers=(
            "roi_heads.box_predictor.cls_score.*",
            "roi_heads.box_predictor.bbox_pred.*",
            "roi_heads.mask_head.predictor.*",
        ),
        published_names=(
            ("backbone.*", "backbone.bottom_up.*"),
            *FPN_NAMES,
            *RPN_NAMES,
            ("roi_head.bbox_head.shared_fcs.{i}.*", "roi_heads.box_head.fc{i+1}.*"),
            ("roi_head.bbox_head.fc_cls.*", "roi_heads.box_predictor.cls_score.*"),
            ("roi_head.bbox_head.fc_reg.*", "roi_heads.box_predictor.bbox_pred.*"),
            ("roi_head.mask_head.convs.{i}.conv.*", "roi_heads.mask_head.mask_fcn{i+1}.*"),
            ("roi_head.mask_head.upsample.*", "roi_heads.mask_head.deconv.*"),
            ("roi_head.mask_head.conv_logits.*", "roi_heads.mask_head.predictor.*"),
        ),
        optional=TWO_STAGE_OPTIONAL,
        parts=TWO_STAGE_PARTS,
        detect=RCNN.detect,
    )
)
