"""Learning-rate schedules, and how long COCO takes."""

import math

from detectron2.config import LazyCall as L

from flash_internimage.solver.schedule import WarmupMultiStep

COCO_TRAIN_IMAGES = 117266  # of train2017's 118287 images, those that have a box that is no crowd


def iterations(epochs, batch_size, images=COCO_TRAIN_IMAGES):
    """Steps in so many passes over the training images; the last, smaller batch of an epoch counts."""
    return epochs * math.ceil(images / batch_size)


def multi_step(epochs, steps):
    """A tenth of the rate after each of ``steps`` (in epochs), in a run of ``epochs``; linear warm-up over 500 iterations."""
    return L(WarmupMultiStep)(
        max_iter="${train.max_iter}",
        epochs=epochs,
        steps=steps,
        gamma=0.1,
        warmup_iters=500,
        warmup_ratio=0.001,
    )


lr_multiplier_1x = multi_step(12, steps=[8, 11])
lr_multiplier_3x = multi_step(36, steps=[27, 33])
lr_multiplier_dino_1x = multi_step(12, steps=[11])
