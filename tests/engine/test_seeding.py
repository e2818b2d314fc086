"""Seeding by seed, rank and iteration."""

import random

import numpy as np
import pytest
import torch

from flash_internimage.engine.seeding import seed_everything


def draw(seed, rank, iteration):
    seed_everything(seed, rank, iteration)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_same_seed_rank_and_iteration_give_the_same_numbers():
    first = draw(1, 2, 3)
    draw(0, 0, 0)
    assert draw(1, 2, 3) == first


@pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3), (1, 3, 2)])
def test_other_seed_rank_or_iteration_gives_other_numbers(other):
    assert all(a != b for a, b in zip(draw(1, 2, 3), draw(*other), strict=True))


def test_negative_seed_is_rejected():
    with pytest.raises(ValueError, match="train.seed=-1: expected 0 or more"):
        seed_everything(-1, 0, 0)
