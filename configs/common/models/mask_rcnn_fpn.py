"""Mask R-CNN with FPN on FlashInternImage-T: the complete detector.

To change the backbone, replace ``model.backbone.bottom_up``. Values that depend on it or on
``model.roi_heads.num_classes`` are interpolated.
"""

from functools import partial

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from flash_internimage.layers import LayerNorm2d
from flash_internimage.modeling import (
    RCNN,
    RPN,
    AnchorGenerator,
    BoxPredictor,
    BoxTransform,
    IoUMatcher,
    MaskHead,
    RoIHeads,
    RoIPooler,
)

from .flash_internimage import flash_internimage_t

model = L(RCNN)(
    backbone=L(FPN)(
        bottom_up=flash_internimage_t,
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm=partial(LayerNorm2d, eps=1e-5),
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels="${...backbone.out_channels}", num_anchors=3),
        anchor_generator=L(AnchorGenerator)(
            sizes=[[32], [64], [128], [256], [512]],  # 8 times the stride
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
        anchor_matcher=L(IoUMatcher)(positive=0.7, negative=0.3, low_quality=0.3),
        box2box_transform=L(BoxTransform)(stds=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=[2000, 1000],  # training, test; per level
        post_nms_topk=[1000, 1000],  # training, test; over all levels
        nms_thresh=0.7,
        anchor_boundary_thresh=-1.0,  # include anchors that cross the image border
        smooth_l1_beta=0.0,  # L1
    ),
    roi_heads=L(RoIHeads)(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(IoUMatcher)(positive=0.5, negative=0.5, low_quality=0.5),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=L(RoIPooler)(output_size=7, strides=[4, 8, 16, 32]),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=7, width=7),
            conv_dims=[],
            fc_dims=[1024, 1024],
        ),
        box_predictor=L(BoxPredictor)(
            input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims.1}"),
            box2box_transform=L(BoxTransform)(stds=[0.1, 0.1, 0.2, 0.2]),
            num_classes="${..num_classes}",
            box_reg_loss_type="l1",
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=100,
        ),
        mask_in_features="${.box_in_features}",
        mask_pooler=L(RoIPooler)(output_size=14, strides=[4, 8, 16, 32]),
        mask_head=L(MaskHead)(
            input_shape=L(ShapeSpec)(channels="${....backbone.out_channels}", height=14, width=14),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],  # four convolutions and the upsampling
        ),
    ),
    # RGB, on the 0..255 scale
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
)
