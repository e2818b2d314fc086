"""Cascade Mask R-CNN on FlashInternImage-L, 12 epochs. Published: box AP 55.6, mask AP 48.2."""

from ..common.data.coco import data, dataloader
from ..common.models.cascade_mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_1x as lr_multiplier
from ..common.train import train

model.backbone.bottom_up.with_cp = False
train.init_checkpoint = "hf://OpenGVLab/DCNv4/flash_intern_image_l_22k_384.pth"

optimizer.params.layer_decay = 0.94
