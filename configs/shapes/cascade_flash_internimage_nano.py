"""Cascade Mask R-CNN on FlashInternImage nano for the shapes dataset: 15 minutes on two CPU cores."""

from ..common.models.cascade_mask_rcnn_fpn import model
from .mask_rcnn_flash_internimage_nano import data, dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_flash_internimage_nano import model as _mask_rcnn

model.backbone = _mask_rcnn.backbone
model.proposal_generator.anchor_generator = _mask_rcnn.proposal_generator.anchor_generator
model.proposal_generator.pre_nms_topk = [500, 200]
model.proposal_generator.post_nms_topk = [200, 100]
model.roi_heads.num_classes = 4
model.roi_heads.batch_size_per_image = 64
for _box_head, _mask_head in zip(model.roi_heads.box_heads, model.roi_heads.mask_heads, strict=True):
    _box_head.conv_dims = [64]
    _box_head.fc_dims = [256]
    _mask_head.conv_dims = [64, 64, 64]

train.max_iter = 500
train.eval_period = 250
