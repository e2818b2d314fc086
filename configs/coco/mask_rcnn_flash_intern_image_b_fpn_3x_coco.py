"""Mask R-CNN on FlashInternImage-B, 36 epochs of multi-scale training. Published: box AP 50.6, mask AP 45.4."""

from ..common.models.flash_internimage import flash_internimage_b as _flash_internimage_b
from .mask_rcnn_flash_intern_image_t_fpn_3x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = _flash_internimage_b
model.backbone.bottom_up.drop_path_rate = 0.4
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_b_1k_224.pth"

optimizer.lr = 2e-4
optimizer.params.layer_decay = 0.9
optimizer.params.offset_lr_scale = 0.01
