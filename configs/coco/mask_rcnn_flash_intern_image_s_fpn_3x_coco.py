"""Mask R-CNN on FlashInternImage-S, 36 epochs of multi-scale training. Published: box AP 50.5, mask AP 44.9."""

from ..common.models.flash_internimage import flash_internimage_s as _flash_internimage_s
from .mask_rcnn_flash_intern_image_t_fpn_3x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = _flash_internimage_s
model.backbone.bottom_up.drop_path_rate = 0.4
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_s_1k_224.pth"

optimizer.lr = 2e-4
