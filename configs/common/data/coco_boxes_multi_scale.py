"""COCO 2017 with the data pipeline of the published DINO models: boxes only, multi-scale resize, crop, 32 images per step."""

from flash_internimage.data.presets import multi_scale_crop

from .coco import data, dataloader

dataloader.train.mapper.with_masks = False
dataloader.train.mapper.allow_empty = False  # if a crop contains no object, use another image
dataloader.train.mapper.augmentations = multi_scale_crop(long_side_before_crop=4200)
dataloader.train.total_batch_size = 32
