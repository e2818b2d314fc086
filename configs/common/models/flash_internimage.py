"""FlashInternImage in the published sizes, for use as ``model.backbone`` or as ``bottom_up`` of an FPN.

``flash_internimage.backbones.sizes`` has the arguments of each size: channels, depths, groups, ...
"""

from detectron2.config import LazyCall as L

from flash_internimage.backbones.sizes import SIZES
from flash_internimage.modeling import FlashInternImage

# Gradient checkpointing, with_cp, is as published, except for Cascade L 1x; False is faster if memory suffices.
_training = {"with_cp": True, "freeze_at": 0, "out_features": ["res2", "res3", "res4", "res5"]}

flash_internimage_t = L(FlashInternImage)(**SIZES["t"], **_training)
flash_internimage_s = L(FlashInternImage)(**SIZES["s"], **_training)
flash_internimage_b = L(FlashInternImage)(**SIZES["b"], **_training)
flash_internimage_l = L(FlashInternImage)(**SIZES["l"], **_training)
