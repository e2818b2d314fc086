"""Cascade Mask R-CNN on FlashInternImage-L, 36 epochs, multi-scale, EMA weights. Published: box AP 56.7, mask AP 48.9."""

from ..common.data.coco_multi_scale import data, dataloader
from ..common.schedule import iterations
from ..common.schedule import lr_multiplier_3x as lr_multiplier
from .cascade_flash_intern_image_l_fpn_1x_coco import model, optimizer, train

model.backbone.bottom_up.with_cp = True
train.ema.enabled = True

train.reference_batch_size = 64
train.max_iter = iterations(epochs=36, batch_size=64)
train.eval_period = train.checkpointer.period = iterations(epochs=1, batch_size=64)

optimizer.lr = 2e-4
optimizer.params.layer_decay = 0.9
optimizer.params.offset_lr_scale = 0.01
