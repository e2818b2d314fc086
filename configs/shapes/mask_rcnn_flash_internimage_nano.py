"""Mask R-CNN on a FlashInternImage of 1.5 million parameters, for the drawn shapes: trains on two CPU cores in minutes."""

from ..common.data.shapes import data, dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import optimizer
from ..common.schedule import multi_step
from ..common.train import train

bottom_up = model.backbone.bottom_up
bottom_up.channels = 32
bottom_up.depths = [1, 1, 2, 1]
bottom_up.groups = [2, 4, 8, 16]
bottom_up.drop_path_rate = 0.0
bottom_up.with_cp = False
model.backbone.out_channels = 64
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [96], [128]]
model.proposal_generator.pre_nms_topk = [500, 200]
model.proposal_generator.post_nms_topk = [200, 100]
model.roi_heads.num_classes = 4
model.roi_heads.batch_size_per_image = 64
model.roi_heads.box_head.fc_dims = [256, 256]
model.roi_heads.mask_head.conv_dims = [64, 64, 64]

train.max_iter = 1500
train.eval_period = 750
train.checkpointer.period = 500
train.reference_batch_size = 4

lr_multiplier = multi_step(epochs=10, steps=[7, 9])
lr_multiplier.warmup_iters = 100

optimizer.lr = 1e-3
