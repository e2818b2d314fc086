"""Random numbers of a training step as a function of where the run stands, so that no generator's state is stored."""

from __future__ import annotations

import random

import numpy as np
import torch

from flash_internimage.errors import UserError


def seed_everything(seed: int, rank: int, iteration: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices) for one iteration of one process.

    The three numbers are mixed, so that neither neighboring ranks nor neighboring iterations share a stream.

    Args:
        seed: of the run, 0 or more.
        iteration: 0 or more.

    Raises:
        UserError: the seed is negative.
    """
    if seed < 0:
        raise UserError(f"train.seed={seed}: expected 0 or more")
    words = np.random.SeedSequence([seed, rank, iteration]).generate_state(4, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed((int(words[2]) << 32) | int(words[3]))
