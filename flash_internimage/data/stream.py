"""Infinite stream of training samples, in which all randomness is a function of the seed and the position in the stream.

A run that is resumed at iteration k gets the same samples as an uninterrupted run, for any number of loader processes, and no
generator state is saved:

- the seed determines the order of images, which are grouped into batches of the same orientation by their annotated size,
  before any image is read; to start at iteration k, the first k batches of indices are drawn and skipped;
- the generators for a sample's augmentation are seeded with the run's seed and the sample's position.
"""

import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info

from flash_internimage.errors import UserError

_MAX_REDRAWS = 100


def shuffled_indices(size: int, seed: int, repeat_factors: torch.Tensor | None = None) -> Iterator[int]:
    """Yield ``0..size-1`` in random order, then again in another order, infinitely.

    Args:
        repeat_factors: (size,) expected number of times that each index occurs per epoch, 1 or more; the fraction is rounded up
            or down at random, as in detectron2's ``RepeatFactorTrainingSampler``. None: once.
    """
    generator = torch.Generator()
    generator.manual_seed(seed)
    while True:
        indices = torch.arange(size)
        if repeat_factors is not None:
            fraction = repeat_factors.frac()
            extra = torch.rand(size, generator=generator) < fraction
            indices = indices.repeat_interleave((repeat_factors - fraction).long() + extra)
        yield from indices[torch.randperm(len(indices), generator=generator)].tolist()


def grouped_batches(
    groups: Sequence[int] | np.ndarray, batch_size: int, seed: int, repeat_factors: torch.Tensor | None = None
) -> Iterator[list[int]]:
    """Yield batches of indices that belong to one group, infinitely.

    Indices are drawn in shuffled order, and a batch is yielded as soon as its group has ``batch_size`` indices. Every index
    thus occurs once per epoch, except for at most ``batch_size - 1`` of each group, which are carried over to the next epoch.

    Args:
        groups: the group of each index.
        batch_size: number of indices per batch; if it exceeds the number of indices, a batch contains duplicates.
        seed: determines the order.
        repeat_factors: expected occurrences of each index per epoch; None: one.
    """
    pending: dict[int, list[int]] = defaultdict(list)
    for index in shuffled_indices(len(groups), seed, repeat_factors):
        batch = pending[int(groups[index])]
        batch.append(index)
        if len(batch) == batch_size:
            yield batch[:]
            batch.clear()


def orientations(dataset: Sequence[dict]) -> np.ndarray:
    """Return an array of 1 for each landscape and 0 for each other image, by the annotated sizes.

    Args:
        dataset: dataset dicts with ``width`` and ``height``; those with an attribute ``sizes`` are not read.
    """
    sizes = getattr(dataset, "sizes", None)
    if sizes is None:
        sizes = np.array([(dataset_dict["height"], dataset_dict["width"]) for dataset_dict in dataset]).reshape(-1, 2)
    return (sizes[:, 1] > sizes[:, 0]).astype(np.uint8)


@contextlib.contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch (CPU) inside the context, and restore them afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    mixed = np.random.SeedSequence(seeds).generate_state(3)
    random.seed(int(mixed[0]))
    np.random.seed(mixed[1])
    torch.default_generator.manual_seed(int(mixed[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class TrainingStream(IterableDataset):
    """Yields the mapped training samples of this process; each batch has only landscape or only portrait images.

    Batch ``j`` of the run goes to process ``j % world_size`` and, within the process, to loader worker
    ``j // world_size % num_workers``. A loader that takes ``batch_size`` samples at a time from each worker in turn (as
    torch's does) thus yields the batches in order.

    Args:
        dataset: dataset dicts with ``width`` and ``height``.
        mapper: maps a dataset dict to a sample, or to ``None`` to have another image drawn.
        batch_size: batch size per process.
        seed: determines order and augmentation; not negative, and the same in all processes.
        start_iteration: number of batches per process to skip.
        repeat_factors: expected occurrences of each image per epoch; None: one.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: Callable[[dict], dict | None],
        batch_size: int,
        seed: int,
        start_iteration: int = 0,
        repeat_factors: torch.Tensor | None = None,
    ) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = start_iteration
        self.repeat_factors = repeat_factors
        self.rank = comm.get_rank()
        self.world_size = comm.get_world_size()
        self.groups = orientations(dataset)

    def batches(self) -> Iterator[tuple[int, list[int]]]:
        """Yield the number and the image indices of each batch that this loader worker loads."""
        worker = get_worker_info()
        worker_id, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = (self.start_iteration + worker_id) * self.world_size + self.rank
        numbered = enumerate(grouped_batches(self.groups, self.batch_size, self.seed, self.repeat_factors))
        return itertools.islice(numbered, first, None, self.world_size * num_workers)

    def sample(self, position: int, index: int) -> dict:
        """Return the sample at a position of the stream.

        Args:
            position: position in the stream, which seeds the augmentation.
            index: index of the image. If the mapper returns ``None`` for it, other images of its group are drawn.

        Raises:
            UserError: the mapper returned ``None`` for too many images in a row.
        """
        with seeded(self.seed, position):
            alternatives = None
            for _ in range(_MAX_REDRAWS):
                sample = self.mapper(self.dataset[index])
                if sample is not None:
                    return sample
                if alternatives is None:
                    alternatives = np.flatnonzero(self.groups == self.groups[index])
                index = int(np.random.choice(alternatives))
        raise UserError(
            f"TrainingStream: none of {_MAX_REDRAWS} augmented images in a row contained an object; "
            "use a larger crop, or allow_empty=True in the mapper"
        )

    def __iter__(self) -> Iterator[dict]:
        for number, indices in self.batches():
            for slot, index in enumerate(indices):
                yield self.sample(number * self.batch_size + slot, index)
