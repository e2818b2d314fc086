"""Seeding of each training step by its iteration, so that a checkpoint needs no generator state."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from flash_internimage.errors import UserError


def seed_everything(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices) for one iteration of one process.

    The three numbers are hashed together, so that neighboring ranks and iterations get independent streams.

    Args:
        seed: seed of the run, 0 or more.
        rank: rank of the process.
        iteration: iteration, 0 or more.

    Raises:
        UserError: the seed is negative.
    """
    if seed < 0:
        raise UserError(f"train.seed={seed}: expected 0 or more")
    words = np.random.SeedSequence([seed, rank, iteration]).generate_state(4, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed((int(words[2]) << 32) | int(words[3]))


@contextlib.contextmanager
def preserved_generators(device: torch.device) -> Iterator[None]:
    """Restore the states of the generators of Python, NumPy and PyTorch (CPU and ``device``) after the context."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
