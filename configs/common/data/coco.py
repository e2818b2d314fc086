"""COCO 2017 for the published 1x recipe of the models with masks: one size, mirroring, 16 images a step."""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from flash_internimage.data import (
    ResizeToFit,
    TestMapper,
    TrainingMapper,
    build_test_loader,
    build_train_loader,
    test_dataset_dicts,
    training_dataset_dicts,
)
from flash_internimage.data.presets import single_scale
from flash_internimage.evaluation import FastCOCOEvaluator

from .custom import data

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(training_dataset_dicts)(
        names="coco_2017_train",
        filter_empty=True,  # images without objects are left out
        min_side=32,  # and those with a side below this, in pixels
        with_masks="${..mapper.with_masks}",
    ),
    mapper=L(TrainingMapper)(
        augmentations=single_scale(),
        with_masks=True,
        allow_empty=True,  # an image whose objects are all outside the crop is kept
    ),
    total_batch_size=16,  # images a step, over all processes
    num_workers=4,  # loader processes for each process; the samples do not depend on it
    seed="${train.seed}",
    start_iteration=0,  # set when a run is resumed
)

dataloader.test = L(build_test_loader)(
    dataset=L(test_dataset_dicts)(names="coco_2017_val"),
    mapper=L(TestMapper)(augmentations=[L(ResizeToFit)(short_sides=[800], long_side=1333)]),
    num_workers=4,
)

dataloader.evaluator = L(FastCOCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",  # predictions in COCO's result format go here; null: nowhere
    max_dets_per_image=100,  # of a class in an image; COCO's limit. The model has a limit of its own
)
