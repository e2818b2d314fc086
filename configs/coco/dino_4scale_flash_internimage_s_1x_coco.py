"""DINO with four feature levels on FlashInternImage-S, 12 epochs. Published: box AP 55.3."""

from ..common.models.flash_internimage import flash_internimage_s as _flash_internimage_s
from .dino_4scale_flash_internimage_t_1x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone = _flash_internimage_s
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_s_1k_224.pth"
