"""Learning rate schedules, and conversion of COCO epochs to iterations."""

import math

from detectron2.config import LazyCall as L

from flash_internimage.solver.schedule import WarmupMultiStep

COCO_TRAIN_IMAGES = 117266  # images of train2017 (118287) with at least one non-crowd box


def iterations(epochs, batch_size, images=COCO_TRAIN_IMAGES):
    """Number of iterations in ``epochs`` passes over the training images, including the last, smaller batch of each."""
    return epochs * math.ceil(images / batch_size)


def multi_step(epochs, steps):
    """Schedule of ``epochs`` with 500 iterations of linear warm-up, dividing the rate by 10 after each epoch in ``steps``."""
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
