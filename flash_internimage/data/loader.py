"""Data loaders for training and testing, built on detectron2's."""

import logging
import signal
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.data import DatasetFromList, build_detection_test_loader, build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm

from flash_internimage.errors import UserError
from flash_internimage.plurals import agree, counted

from .dataset_dicts import DatasetDicts
from .mapper import TrainingMapper
from .shared_memory import require_shared_memory
from .stream import TrainingStream

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 900
"""Time that a loader waits for a batch of its workers before it raises an error, for instance if the storage hangs."""


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Callable[[dict], dict | None],
    total_batch_size: int,
    num_workers: int,
    seed: int,
    start_iteration: int = 0,
    sampler: str = "TrainingSampler",
    repeat_threshold: float = 0.001,
) -> Iterable[list[dict]]:
    """Build an infinite loader of training batches that can start at any iteration.

    Args:
        dataset: dataset dicts for training.
        mapper: maps a dataset dict to a sample, or to ``None`` if another image should be used instead.
        total_batch_size: batch size over all processes.
        num_workers: loader processes per training process; the samples do not depend on it.
        seed: determines the order of images and their augmentation; must be the same in all processes.
        start_iteration: number of batches consumed by earlier runs (with gradient accumulation: batches, not steps).
        sampler: ``TrainingSampler``, every image once per epoch, or ``RepeatFactorTrainingSampler``, images of rare classes
            more often; named after detectron2's samplers, whose indices these are.
        repeat_threshold: fraction of the images; classes in fewer images are rare, and repeated by the root of the ratio.

    Returns:
        Iterable over the batches of this process: lists of ``total_batch_size / world_size`` samples.

    Raises:
        UserError: the batch size is not divisible by the number of processes, the seed is negative, the sampler is unknown, or
            there is too little shared memory for the workers.
    """
    world_size = comm.get_world_size()
    if not isinstance(total_batch_size, int) or total_batch_size < 1 or total_batch_size % world_size:
        expected = agree(f"[a whole number of 1 or more|a positive multiple of the {world_size} processes]", world_size)
        raise UserError(f"build_train_loader: total_batch_size must be {expected}, got {total_batch_size}")
    if seed < 0:
        raise UserError(f"build_train_loader: seed must not be negative, got {seed}; choose a fixed seed of 0 or more")
    # DatasetFromList serializes to one buffer, which forked loader processes share, as DatasetDicts does.
    serialized = dataset if isinstance(dataset, DatasetDicts) else DatasetFromList(list(dataset), copy=False)
    if isinstance(mapper, TrainingMapper):
        mapper.dataset = serialized
    batch_size = total_batch_size // world_size
    factors = _repeat_factors(serialized, sampler, repeat_threshold)
    stream = TrainingStream(serialized, mapper, batch_size, seed, start_iteration, factors)
    require_shared_memory(num_workers, batch_size, lambda: stream.sample(0, 0))
    # The stream groups by aspect ratio and distributes the batches itself: detectron2 would group after loading, which
    # cannot be resumed, and its two supported versions distribute samples among loader processes differently.
    loader = build_detection_train_loader(
        stream,
        mapper=None,
        total_batch_size=total_batch_size,
        aspect_ratio_grouping=False,
        num_workers=num_workers,
    )
    # A loader without its own generator draws from the global one when it starts, which would change the random numbers of
    # the iteration at which a run is resumed.
    loader.generator = torch.Generator()
    _prepare_workers(loader)
    return loader


def _repeat_factors(dataset: Sequence[dict], sampler: str, threshold: float) -> torch.Tensor | None:
    """Expected occurrences of each image per epoch; None for the TrainingSampler, whose epochs have each image once.

    The factor of an image is that of its rarest class c, max(1, sqrt(threshold / f(c))), where f(c) is the fraction of images
    with that class (LVIS, https://arxiv.org/abs/1908.03195, appendix B.2).
    """
    if sampler == "TrainingSampler":
        return None
    if sampler != "RepeatFactorTrainingSampler":
        raise UserError(f"dataloader.train.sampler={sampler}: expected TrainingSampler or RepeatFactorTrainingSampler")
    if not 0 < threshold <= 1:
        raise UserError(
            f"dataloader.train.repeat_threshold={threshold}: expected a fraction of the images above 0 and up to 1, below "
            "which a class is rare"
        )
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, threshold)
    repeated = int((factors > 1).sum())
    logger.info(
        "RepeatFactorTrainingSampler: %s of %s %s repeated, up to %.2f times; an epoch has about %s",
        f"{repeated:,}",
        counted(factors, "image"),
        agree("[is|are]", repeated),
        float(factors.max()),
        counted(round(float(factors.sum())), "image"),
    )
    return factors


def build_test_loader(dataset: Sequence[dict], mapper: Callable[[dict], dict], num_workers: int) -> Iterable[list[dict]]:
    """Build a loader that yields every test image once, with batch size 1, distributed over the processes.

    Args:
        dataset: dataset dicts for testing.
        mapper: maps a dataset dict to a sample.
        num_workers: loader processes per process.

    Raises:
        UserError: there is too little shared memory for the workers.
    """
    serialized = dataset if isinstance(dataset, DatasetDicts) else DatasetFromList(list(dataset), copy=False)
    if len(serialized):
        require_shared_memory(num_workers, 1, lambda: mapper(serialized[0]))
    loader = build_detection_test_loader(serialized, mapper=mapper, num_workers=num_workers)
    _prepare_workers(loader)
    return loader


def _prepare_workers(loader: Any) -> None:
    """Give the loader a timeout, and its workers the signal handlers of the run."""
    loader.timeout = TIMEOUT_SECONDS if loader.num_workers > 0 else 0
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)


def _start_worker(initialize: Callable[[int], None] | None, worker_id: int) -> None:
    """Initialize a worker; a SIGTERM to all processes of a run must not end it before the run has stopped.

    PyTorch replaces the handler of SIGTERM that a forked worker inherits (:mod:`flash_internimage.engine.stopping`) by one
    that ends the worker. The first SIGTERM is for the run; the worker ends with the loader, at the second, or after a while.
    """
    if initialize is not None:
        initialize(worker_id)
    inherited = signal.getsignal(signal.SIGTERM)
    if callable(inherited):
        signal.signal(signal.SIGTERM, inherited)
