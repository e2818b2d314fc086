"""Check of the shared memory through which a loader's workers send their samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flash_internimage.errors import UserError
from flash_internimage.plurals import counted

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED_BATCHES = 2  # per worker: PyTorch's default

_PLENTY = 2**30  # bytes; with this much free, no sample is loaded to measure it


def require_shared_memory(num_workers: int, batch_size: int, sample: Callable[[], Any]) -> None:
    """Raise an exception if the batches that the workers of a loader prefetch do not fit into ``/dev/shm``.

    Without this check PyTorch's workers would print tracebacks, and the loader would wait for them forever.

    Args:
        batch_size: number of samples per batch.
        sample: returns a sample, whose tensors are measured; called only if little space is free.

    Raises:
        UserError: the batches do not fit.
    """
    if num_workers == 0 or not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free >= _PLENTY:
        return
    needed = num_workers * PREFETCHED_BATCHES * batch_size * size_of_tensors(sample())
    if free < needed:
        raise UserError(
            f"{SHARED_MEMORY}: {counted(num_workers, 'loader worker needs', 'loader workers need')} about {_mebibytes(needed)} "
            f"of shared memory, {_mebibytes(free)} are free; pass --shm-size=8g (or --ipc=host) to docker run, mount a larger "
            "one, or set "
            "dataloader.train.num_workers=0 and dataloader.test.num_workers=0"
        )


def size_of_tensors(sample: Any) -> int:
    """Return the size in bytes of all tensors and arrays in a sample, in nested containers and objects, too."""
    if isinstance(sample, torch.Tensor | np.ndarray):
        return int(sample.nbytes)
    if isinstance(sample, dict):
        return sum(map(size_of_tensors, sample.values()))
    if isinstance(sample, list | tuple):
        return sum(map(size_of_tensors, sample))
    return size_of_tensors(vars(sample)) if hasattr(sample, "__dict__") and not isinstance(sample, type) else 0


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
