"""FlashInternImage in the published sizes, for use as ``model.backbone`` or as ``bottom_up`` of an FPN."""

from copy import deepcopy

from detectron2.config import LazyCall as L

from flash_internimage.modeling import FlashInternImage

flash_internimage_t = L(FlashInternImage)(
    channels=64,
    depths=[4, 4, 18, 4],
    groups=[4, 8, 16, 32],  # 16 channels per group, in all sizes
    mlp_ratio=4.0,
    drop_path_rate=0.2,
    layer_scale=1.0,
    offset_scale=1.0,
    post_norm=False,
    kernel_size=3,
    dw_kernel_size=None,
    center_feature_scale=False,
    remove_center=False,
    dcn_output_bias=False,
    mlp_fc2_bias=False,
    with_cp=True,  # gradient checkpointing; as published, except for Cascade L 1x; False is faster if memory suffices
    freeze_at=0,
    out_features=["res2", "res3", "res4", "res5"],
)

flash_internimage_s = deepcopy(flash_internimage_t)
flash_internimage_s.channels = 80
flash_internimage_s.depths = [4, 4, 21, 4]
flash_internimage_s.groups = [5, 10, 20, 40]
flash_internimage_s.drop_path_rate = 0.3
flash_internimage_s.post_norm = True
flash_internimage_s.dw_kernel_size = 3

flash_internimage_b = deepcopy(flash_internimage_s)
flash_internimage_b.channels = 112
flash_internimage_b.groups = [7, 14, 28, 56]
flash_internimage_b.offset_scale = 0.5

flash_internimage_l = deepcopy(flash_internimage_s)
flash_internimage_l.channels = 160
flash_internimage_l.depths = [5, 5, 22, 5]
flash_internimage_l.groups = [10, 20, 40, 80]
flash_internimage_l.drop_path_rate = 0.4
flash_internimage_l.offset_scale = 2.0
flash_internimage_l.dcn_output_bias = True
flash_internimage_l.mlp_fc2_bias = True
