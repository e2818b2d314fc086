"""Cascade Mask R-CNN with FPN on FlashInternImage-L, derived from the Mask R-CNN config."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from flash_internimage.layers import SyncBatchNorm
from flash_internimage.modeling import BoxPredictor, BoxTransform, CascadeRoIHeads, IoUMatcher, MaskHead, RoIPooler

from .flash_internimage import flash_internimage_l
from .mask_rcnn_fpn import model

model.backbone.bottom_up = flash_internimage_l

model.proposal_generator.post_nms_topk = [2000, 1000]
model.proposal_generator.anchor_boundary_thresh = 0.0  # exclude anchors that cross the image border
model.proposal_generator.smooth_l1_beta = 1 / 9

model.roi_heads = L(CascadeRoIHeads)(
    num_classes=80,
    batch_size_per_image=512,  # per stage
    positive_fraction=0.25,
    proposal_matchers=[L(IoUMatcher)(positive=iou, negative=iou) for iou in (0.5, 0.6, 0.7)],
    box_in_features=["p2", "p3", "p4", "p5"],
    box_pooler=L(RoIPooler)(output_size=7, strides=[4, 8, 16, 32]),
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${.....backbone.out_channels}", height=7, width=7),
            conv_dims=[256, 256, 256, 256],
            fc_dims=[1024],
            conv_norm=SyncBatchNorm,
        )
        for _ in range(3)
    ],
    box_predictors=[
        L(BoxPredictor)(
            input_shape=L(ShapeSpec)(channels=f"${{....box_heads.{stage}.fc_dims.0}}"),
            box2box_transform=L(BoxTransform)(stds=stds),
            num_classes="${...num_classes}",
            box_reg_loss_type="giou",
            box_reg_loss_weight=10.0,
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        )
        # As published: the stds of the last stage are rounded, not 1/30 and 1/15 as in other implementations.
        for stage, stds in enumerate([[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]])
    ],
    stage_loss_weights=[1.0, 0.5, 0.25],
    mask_in_features="${.box_in_features}",
    mask_pooler=L(RoIPooler)(output_size=14, strides=[4, 8, 16, 32]),
    mask_heads=[
        L(MaskHead)(
            input_shape=L(ShapeSpec)(channels="${.....backbone.out_channels}", height=14, width=14),
            num_classes="${...num_classes}",
            conv_dims=[256, 256, 256, 256, 256],
        )
        for _ in range(3)
    ],
)
