"""COCO 2017 with ViTDet's large-scale jitter, not a published recipe: 1024 x 1024, 64 images per step."""

from detectron2.config import LazyCall as L

from flash_internimage.data import ResizeToFit
from flash_internimage.data.presets import large_scale_jitter

from .coco import data, dataloader

dataloader.train.mapper.augmentations = large_scale_jitter(side=1024)
dataloader.train.total_batch_size = 64
dataloader.test.mapper.augmentations = [L(ResizeToFit)(short_sides=[1024], long_side=1024)]
