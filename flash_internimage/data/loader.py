"""The loaders that configs name, over those of detectron2."""

from collections.abc import Callable, Iterable, Sequence

import torch
from detectron2.data import DatasetFromList, build_detection_test_loader, build_detection_train_loader
from detectron2.utils import comm

from flash_internimage.errors import UserError

from .stream import TrainingStream


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    num_workers: int,
    seed: int,
    start_iteration: int = 0,
) -> Iterable[list[dict]]:
    """Endless loader of training batches that can be started at any iteration.

    Args:
        dataset: training dataset_dicts.
        mapper: a dataset_dict to a sample; ``None`` asks for another image.
        total_batch_size: samples in a batch of all processes together.
        num_workers: loader processes for each training process; the samples do not depend on it.
        seed: fixes the order of images and their augmentation. Equal in all processes.
        start_iteration: number of batches that earlier runs have used (with gradient accumulation: batches, not steps).

    Returns:
        Iterable over the batches of this process, lists of ``total_batch_size / world size`` samples.

    Raises:
        UserError: the batch cannot be divided among the processes, or the seed is negative.
    """
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise UserError(
            f"build_train_loader: total_batch_size must be a positive multiple of the {world_size} processes, "
            f"got {total_batch_size}"
        )
    if seed < 0:
        raise UserError(f"build_train_loader: seed must not be negative, got {seed}; draw one and dataset_dict it")
    # Kept as one block of bytes, which forked loader processes share.
    serialized = DatasetFromList(list(dataset), copy=False)
    stream = TrainingStream(serialized, mapper, total_batch_size // world_size, seed, start_iteration)
    # The stream groups by aspect ratio and shares out the batches itself: detectron2 would group after loading, which
    # cannot be resumed, and its two versions share out samples among loader processes in different ways.
    loader = build_detection_train_loader(
        stream,
        mapper=None,
        total_batch_size=total_batch_size,
        aspect_ratio_grouping=False,
        num_workers=num_workers,
    )
    # Without its own generator a loader draws a number from the global one when it starts, and so would change the random
    # numbers of the iteration at which a run is resumed.
    loader.generator = torch.Generator()
    return loader


def build_test_loader(dataset: Sequence[dict], mapper: Callable[[dict], dict], num_workers: int) -> Iterable[list[dict]]:
    """Loader that gives every test image once, shared out among the processes, one at a time.

    Args:
        dataset: test dataset_dicts.
        mapper: a dataset_dict to a sample.
        num_workers: loader processes for each process.
    """
    return build_detection_test_loader(list(dataset), mapper=mapper, num_workers=num_workers)
