"""COCO 2017 for the published 3x recipe of the models with masks: many sizes, crops, 64 images a step."""

from flash_internimage.data.presets import multi_scale_crop

from .coco import data, dataloader

dataloader.train.mapper.augmentations = multi_scale_crop()
dataloader.train.total_batch_size = 64
