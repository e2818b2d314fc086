"""Mask R-CNN on FlashInternImage-S, 12 epochs. Published: box AP 49.2, mask AP 44.0."""

from ..common.models.flash_internimage import flash_internimage_s as _flash_internimage_s
from .mask_rcnn_flash_intern_image_t_fpn_1x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = _flash_internimage_s
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_s_1k_224.pth"
