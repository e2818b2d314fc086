"""COCO 2017 with the data pipeline of the published 1x mask models: single-scale resize, flips, 16 images per step."""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from flash_internimage.data import (
    ResizeToFit,
    TestMapper,
    TrainingMapper,
    build_test_loader,
    build_train_loader,
    evaluation_dataset_dicts,
    training_dataset_dicts,
)
from flash_internimage.data.presets import single_scale
from flash_internimage.evaluation import FastCOCOEvaluator

from .custom import data

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(training_dataset_dicts)(
        names="coco_2017_train",
        filter_empty=True,  # skip images without objects
        min_side=32,  # skip images whose shorter side is below this, in pixels
        with_masks="${..mapper.with_masks}",
    ),
    mapper=L(TrainingMapper)(
        augmentations=single_scale(),
        with_masks=True,
        allow_empty=True,  # keep an image if its crop contains no object
    ),
    total_batch_size=16,  # images per step, over all processes; "auto": the most that fit into the memory of the GPUs
    num_workers=4,  # data loading workers per process; samples do not depend on their number
    seed="${train.seed}",
    sampler="TrainingSampler",  # or "RepeatFactorTrainingSampler": images of rare classes occur more often
    repeat_threshold=0.001,  # classes in a smaller fraction of the images are rare
    start_iteration=0,  # set by the trainer when a run is resumed
)

dataloader.test = L(build_test_loader)(
    dataset=L(evaluation_dataset_dicts)(names="coco_2017_val"),
    mapper=L(TestMapper)(augmentations=[L(ResizeToFit)(short_sides=[800], long_side=1333)]),
    num_workers=4,
)

dataloader.evaluator = L(FastCOCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",  # folder for predictions in COCO result format; null: do not save
    max_dets_per_image=100,  # of a class in an image; COCO's limit. The model has its own limit
)
