"""Check of the shared memory for the loader's workers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flash_internimage.data import shared_memory
from flash_internimage.data.loader import build_test_loader, build_train_loader
from flash_internimage.errors import UserError

DICTS = [{"width": 512, "height": 256, "number": i} for i in range(4)]


def sample(dataset_dict):
    return {**dataset_dict, "image": torch.zeros(2**20, dtype=torch.uint8)}


@pytest.fixture
def free(monkeypatch):
    """Set the free space in /dev/shm, in MiB."""

    def free(size):
        monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=size * 2**20))

    return free


def test_sizes_of_tensors_in_containers_and_objects():
    fields = SimpleNamespace(masks=torch.zeros(3, 4, dtype=torch.bool))
    assert shared_memory.size_of_tensors({"a": torch.zeros(5), "b": [np.zeros(2), fields], "c": "text"}) == 20 + 16 + 12


def test_too_little_for_the_prefetched_batches_is_refused(free):
    free(7)  # two workers prefetch two batches each, of two images
    with pytest.raises(UserError, match=r"2 loader workers need about 8.0 MiB .*, 7.0 MiB are free; .*--shm-size"):
        build_train_loader(DICTS, sample, total_batch_size=2, num_workers=2, seed=0)
    free(0)
    with pytest.raises(UserError, match=r"1 loader worker needs about 2.0 MiB"):
        build_test_loader(DICTS, sample, num_workers=1)


def test_enough(free):
    free(8)
    assert build_train_loader(DICTS, sample, total_batch_size=2, num_workers=2, seed=0).timeout > 0
    free(0)
    assert build_train_loader(DICTS, sample, total_batch_size=2, num_workers=0, seed=0).timeout == 0
