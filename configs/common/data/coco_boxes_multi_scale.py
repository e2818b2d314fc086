"""COCO 2017 for the published recipe of DINO: boxes only, many sizes, crops that hold an object, 32 images a step."""

from flash_internimage.data.presets import multi_scale_crop

from .coco import data, dataloader

dataloader.train.mapper.with_masks = False
dataloader.train.mapper.allow_empty = False  # where a crop holds no object, another image is taken
dataloader.train.mapper.augmentations = multi_scale_crop(long_side_before_crop=4200)
dataloader.train.total_batch_size = 32
