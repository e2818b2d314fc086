"""Mask R-CNN on FlashInternImage-T with ViTDet's large-scale jitter: 100 epochs at 1024 x 1024. Not a published recipe."""

from ..common.data.coco_lsj import data, dataloader
from ..common.schedule import iterations, multi_step
from .mask_rcnn_flash_intern_image_t_fpn_1x_coco import model, optimizer, train

train.reference_batch_size = 64
train.max_iter = iterations(epochs=100, batch_size=64)
train.eval_period = train.checkpointer.period = iterations(epochs=5, batch_size=64)

lr_multiplier = multi_step(epochs=100, steps=[89, 96])

optimizer.lr = 2e-4
