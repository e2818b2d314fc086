"""Communication of the processes of a run inside a model: means, such as the number of objects that normalizes a loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch.distributed as dist
from torch import Tensor

_ALONE: ContextVar[bool] = ContextVar("_ALONE", default=False)


def has_other_processes() -> bool:
    """Whether a module has other processes to communicate with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and not _ALONE.get()


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes of a distributed run; without one, the tensor itself."""
    if not has_other_processes():
        return value
    value = value / dist.get_world_size()
    dist.all_reduce(value)
    return value


@contextlib.contextmanager
def each_process_alone() -> Iterator[None]:
    """Do not communicate with other processes inside the context.

    The losses of an image then do not depend on those of other processes, which may have fewer images and would leave a process
    waiting.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)
