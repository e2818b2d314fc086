"""The family of Cascade Mask R-CNN: Mask R-CNN with one box head and one mask head per stage."""

from __future__ import annotations

from flash_internimage.families import DetectorFamily, register

from .mask_rcnn import FPN_NAMES, RPN_NAMES, TWO_STAGE_OPTIONAL, TWO_STAGE_PARTS
from .rcnn import RCNN

# {s} is the stage.
CASCADE_MASK_RCNN = register(
    DetectorFamily(
        title="Cascade Mask R-CNN",
        signature="roi_heads.box_predictor.0.cls_score.weight",
        class_layers=(
            "roi_heads.box_predictor.{s}.cls_score.*",
            "roi_heads.box_predictor.{s}.bbox_pred.*",
            "roi_heads.mask_head.{s}.predictor.*",
        ),
        published_names=(
            ("backbone.*", "backbone.bottom_up.*"),
            *FPN_NAMES,
            *RPN_NAMES,
            ("roi_head.bbox_head.{s}.shared_convs.{i}.bn.*", "roi_heads.box_head.{s}.conv{i+1}.norm.*"),
            ("roi_head.bbox_head.{s}.shared_convs.{i}.conv.*", "roi_heads.box_head.{s}.conv{i+1}.*"),
            ("roi_head.bbox_head.{s}.shared_fcs.{i}.*", "roi_heads.box_head.{s}.fc{i+1}.*"),
            ("roi_head.bbox_head.{s}.fc_cls.*", "roi_heads.box_predictor.{s}.cls_score.*"),
            ("roi_head.bbox_head.{s}.fc_reg.*", "roi_heads.box_predictor.{s}.bbox_pred.*"),
            ("roi_head.mask_head.{s}.convs.{i}.conv.*", "roi_heads.mask_head.{s}.mask_fcn{i+1}.*"),
            ("roi_head.mask_head.{s}.upsample.*", "roi_heads.mask_head.{s}.deconv.*"),
            ("roi_head.mask_head.{s}.conv_logits.*", "roi_heads.mask_head.{s}.predictor.*"),
        ),
        optional=TWO_STAGE_OPTIONAL,
        parts=TWO_STAGE_PARTS,
        detect=RCNN.detect,
    )
)
