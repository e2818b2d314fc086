"""Built-in shapes dataset for models that train on a CPU; its images are generated on first use."""

from detectron2.config import LazyCall as L

from flash_internimage.data import ResizeToFit
from flash_internimage.data.presets import single_scale

from .coco import data, dataloader

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations = single_scale(short_side=128, long_side=192)
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 0  # loading an image takes milliseconds

dataloader.test.dataset.names = "shapes_val"
dataloader.test.mapper.augmentations = [L(ResizeToFit)(short_sides=[128], long_side=192)]
dataloader.test.num_workers = 0
