"""Mask R-CNN on FlashInternImage-T, 36 epochs of multi-scale training. Published: box AP 49.5, mask AP 44.0."""

from ..common.data.coco_multi_scale import data, dataloader
from ..common.schedule import iterations
from ..common.schedule import lr_multiplier_3x as lr_multiplier
from .mask_rcnn_flash_intern_image_t_fpn_1x_coco import model, optimizer, train

train.reference_batch_size = 64
train.max_iter = iterations(epochs=36, batch_size=64)
train.eval_period = train.checkpointer.period = iterations(epochs=1, batch_size=64)
