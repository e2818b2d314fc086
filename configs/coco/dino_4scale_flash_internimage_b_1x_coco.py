"""DINO with four feature levels on FlashInternImage-B, 12 epochs. Published: box AP 56.0."""

from ..common.models.flash_internimage import flash_internimage_b as _flash_internimage_b
from .dino_4scale_flash_internimage_t_1x_coco import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone = _flash_internimage_b
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_b_1k_224.pth"
