"""COCO 2017 with the data pipeline of the published 3x mask models: multi-scale resize and crop, 64 images per step."""

from flash_internimage.data.presets import multi_scale_crop

from .coco import data, dataloader

dataloader.train.mapper.augmentations = multi_scale_crop()
dataloader.train.total_batch_size = 64
