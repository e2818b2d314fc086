"""The endless stream of training samples, in which everything random is a function of the seed and the position.

So a run that is resumed at iteration k sees what an uninterrupted run sees from k on, whatever the number of loader
processes, and no generator state has to be saved. Two things make it so:

- the order of images is fixed by the seed, and images are grouped into batches of like orientation by their recorded
  size, before any is read; to start at iteration k, the first k batches of numbers are drawn and passed over;
- the draws of a sample's augmentation start from a seed made of the run's seed and the sample's position.
"""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info

from flash_internimage.errors import UserError

_MOST_REDRAWS = 100


def shuffled_indices(size: int, seed: int) -> Iterator[int]:
    """``0..size-1`` in random order, then again in another order, without end."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def grouped_batches(groups: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Batches of indices within one group, without end.

    Indices are taken in shuffled order, and a batch is given out once its group has enough; so every index comes
    once an epoch, but for at most ``batch_size - 1`` of each group that wait for the next epoch.

    Args:
        groups: the group of each index.
        batch_size: indices in a batch; it may exceed the number of indices, which then come more than once.
        seed: fixes the order.
    """
    waiting: dict[int, list[int]] = {group: [] for group in groups}
    for index in shuffled_indices(len(groups), seed):
        batch = waiting[groups[index]]
        batch.append(index)
        if len(batch) == batch_size:
            yield batch[:]
            batch.clear()


@contextlib.contextmanager
def seeded(*seeds: int) -> Iterator[None]:
    """Seeds the global generators of Python, numpy and torch (CPU), and restores them afterwards."""
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
    """Mapped training samples of this process, batch after batch, each batch of landscape or of portrait images only.

    Batch ``j`` of the whole run goes to process ``j % world_size``, and within a process to loader worker
    ``j // world_size % num_workers``; a loader that takes ``batch_size`` samples at a time from each worker in turn (as
    torch's does) gives the batches in order.

    Args:
        dataset: dataset_dicts with ``width`` and ``height``.
        mapper: a dataset_dict to a sample, or to ``None`` if another image should be taken.
        batch_size: samples in a batch of one process.
        seed: fixes order and augmentation; not negative, equal in all processes.
        start_iteration: number of batches of each process to pass over.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: Callable[[dict], dict | None],
        batch_size: int,
        seed: int,
        start_iteration: int = 0,
    ) -> None:
        self.dataset = dataset
        self.mapper = mapper
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = start_iteration
        self.rank = comm.get_rank()
        self.world_size = comm.get_world_size()
        self.groups = [int(dataset_dict["width"] > dataset_dict["height"]) for dataset_dict in dataset]

    def batches(self) -> Iterator[tuple[int, list[int]]]:
        """Number, and indices of images, of each batch that this loader worker makes."""
        worker = get_worker_info()
        worker_id, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = (self.start_iteration + worker_id) * self.world_size + self.rank
        numbered = enumerate(grouped_batches(self.groups, self.batch_size, self.seed))
        return itertools.islice(numbered, first, None, self.world_size * num_workers)

    def sample(self, position: int, index: int) -> dict:
        """The sample at a position of the run.

        Args:
            position: seeds the augmentation.
            index: which image. If the mapper refuses it, others of its group are drawn.

        Raises:
            UserError: the mapper refused one image after another.
        """
        with seeded(self.seed, position):
            alternatives = None
            for _ in range(_MOST_REDRAWS):
                sample = self.mapper(self.dataset[index])
                if sample is not None:
                    return sample
                if alternatives is None:
                    alternatives = np.flatnonzero(np.asarray(self.groups) == self.groups[index])
                index = int(np.random.choice(alternatives))
        raise UserError(
            f"TrainingStream: no object was left in any of {_MOST_REDRAWS} augmented images drawn one after the other; "
            "use a gentler crop, or allow_empty=True in the mapper"
        )

    def __iter__(self) -> Iterator[dict]:
        for number, indices in self.batches():
            for slot, index in enumerate(indices):
                yield self.sample(number * self.batch_size + slot, index)
