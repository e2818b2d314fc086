"""DINO on FlashInternImage nano for the shapes dataset: less than 30 minutes on two CPU cores."""

from ..common.models.dino import model
from ..common.models.flash_internimage_nano import flash_internimage_nano as _flash_internimage_nano
from ..common.schedule import multi_step
from .mask_rcnn_flash_internimage_nano import data, dataloader, optimizer, train

dataloader.train.mapper.with_masks = False
dataloader.train.mapper.allow_empty = False
dataloader.train.total_batch_size = 8

model.backbone = _flash_internimage_nano
model.num_classes = 4
model.neck.norm_groups = 8
model.transformer.embed_dim = 96
model.transformer.encoder.num_layers = 2
model.transformer.decoder.num_layers = 3
model.transformer.decoder.num_heads = 4
model.transformer.decoder.ffn_dim = 256
model.transformer.query_selection.num_queries = 40
model.denoising.num_queries = 20
model.detections_per_image = 40

train.max_iter = 1200
train.eval_period = 400
train.reference_batch_size = 8
train.clip_grad.max_norm = 0.1

lr_multiplier = multi_step(epochs=10, steps=[8])
lr_multiplier.warmup_iters = 100

optimizer.lr = 5e-4
optimizer.weight_decay = 1e-4
