"""Mask R-CNN on FlashInternImage nano for the shapes dataset: less than 10 minutes on two CPU cores."""

from ..common.data.shapes import data, dataloader
from ..common.models.flash_internimage_nano import flash_internimage_nano as _flash_internimage_nano
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedule import multi_step
from ..common.train import train

model.backbone.bottom_up = _flash_internimage_nano
model.backbone.out_channels = 64
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
model.proposal_generator.pre_nms_topk = [500, 200]
model.proposal_generator.post_nms_topk = [200, 100]
model.roi_heads.num_classes = 4
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.mask_head.conv_dims = [64, 64, 64]

train.max_iter = 800
train.eval_period = 400
train.checkpointer.period = 400
train.reference_batch_size = 4

lr_multiplier = multi_step(epochs=10, steps=[7, 9])
lr_multiplier.warmup_iters = 100

optimizer.lr = 1e-3
