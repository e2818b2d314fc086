"""Mask R-CNN on FlashInternImage-B, 12 epochs. Published: box AP 50.1, mask AP 44.5."""

from ..common.models.flash_internimage import flash_internimage_b as _flash_internimage_b
from .mask_rcnn_flash_intern_image_t_fpn_1x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = _flash_internimage_b
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_b_1k_224.pth"
