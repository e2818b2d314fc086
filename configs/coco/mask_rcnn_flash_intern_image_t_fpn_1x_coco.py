"""Mask R-CNN on FlashInternImage-T, 12 epochs. Published: box AP 48.0, mask AP 43.1."""

from ..common.data.coco import data, dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_1x as lr_multiplier
from ..common.train import train

train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_t_1k_224.pth"
