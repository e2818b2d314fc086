"""DINO with four feature levels on FlashInternImage-T: the complete detector.

To change the backbone, replace ``model.backbone``. Values that depend on its width or on ``model.num_classes`` are
interpolated.
"""

from detectron2.config import LazyCall as L

from flash_internimage.backbones.flash_internimage import stage_channels
from flash_internimage.modeling.detr import ChannelMapper, Encoder, HungarianMatcher, SinePositionEncoding
from flash_internimage.projects.dino import DINO, ContrastiveDenoising, Decoder, DINOCriterion, DINOTransformer, QuerySelection

from .flash_internimage import flash_internimage_t

model = L(DINO)(
    backbone=flash_internimage_t,
    neck=L(ChannelMapper)(
        in_features=["res3", "res4", "res5"],
        in_channels=L(stage_channels)(channels="${...backbone.channels}", names="${..in_features}"),
        out_channels="${..transformer.embed_dim}",
        num_levels="${..transformer.num_levels}",
        norm_groups=32,
    ),
    position_encoding=L(SinePositionEncoding)(
        embed_dim="${..transformer.embed_dim}",
        temperature=20.0,
    ),
    transformer=L(DINOTransformer)(
        encoder=L(Encoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            num_heads="${..decoder.num_heads}",
            num_levels="${..num_levels}",
            num_points="${..decoder.num_points}",
            ffn_dim="${..decoder.ffn_dim}",
        ),
        query_selection=L(QuerySelection)(
            num_queries=900,
            embed_dim="${..embed_dim}",
        ),
        decoder=L(Decoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            num_heads=8,
            num_levels="${..num_levels}",
            num_points=4,
            ffn_dim=2048,
        ),
        num_classes="${..num_classes}",
        num_levels=4,
        embed_dim=256,
    ),
    denoising=L(ContrastiveDenoising)(
        num_classes="${..num_classes}",
        embed_dim="${..transformer.embed_dim}",
        num_queries=100,
        label_noise=0.5,
        box_noise=1.0,
    ),
    criterion=L(DINOCriterion)(
        matcher=L(HungarianMatcher)(
            class_cost=2.0,
            l1_cost=5.0,
            giou_cost=2.0,
        ),
        class_weight=1.0,
        l1_weight=5.0,
        giou_weight=2.0,
    ),
    num_classes=80,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    detections_per_image=300,
)
