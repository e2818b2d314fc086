"""detectron2's RetinaNet on FlashInternImage nano for the shapes dataset; an example of using another detector."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet, RetinaNetHead

from .mask_rcnn_flash_internimage_nano import data, dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_flash_internimage_nano import model as _mask_rcnn

dataloader.train.mapper.with_masks = False

_backbone = _mask_rcnn.backbone
_backbone.in_features = ["res3", "res4", "res5"]
_backbone.top_block = L(LastLevelP6P7)(in_channels=64, out_channels=64, in_feature="p5")

model = L(RetinaNet)(
    backbone=_backbone,
    head=L(RetinaNetHead)(
        input_shape=[L(ShapeSpec)(channels=64) for _ in range(5)],
        num_classes="${..num_classes}",
        conv_dims=[64, 64],
        num_anchors=9,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[side * 2 ** (octave / 3) for octave in range(3)] for side in (16, 32, 64, 96, 128)],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes=4,
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    input_format="RGB",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
