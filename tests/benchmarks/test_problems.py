"""The inputs of the operator benchmarks, and the plain PyTorch formulation that they compare with."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from flash_internimage.ops import ms_deform_attn


@pytest.fixture
def problems(benchmark_module):
    return benchmark_module("problems")


def test_numbers_on_the_grid_are_exact_in_every_dtype_and_on_no_pixel(problems):
    numbers = problems.on_grid(torch.linspace(-7.9, 7.9, 1000))
    assert (numbers - numbers.round()).abs().min() >= 1 / 32
    assert torch.equal(numbers, numbers.bfloat16().float())
    assert torch.equal(numbers, numbers.half().float())


def test_levels_are_those_of_dino(problems):
    assert problems.levels(800, 1344) == ((100, 168), (50, 84), (25, 42), (13, 21))


@pytest.mark.parametrize("batch", [1, 3])
def test_plain_pytorch_formulation_equals_the_operator(problems, batch):
    levels = problems.levels(64, 96)
    value, locations, weights = (tensor.double() for tensor in problems.draw(levels, torch.rand(7, 2), batch))
    plain = partial(problems.by_grid_sample, levels)
    assert_close(plain(value, locations, weights), ms_deform_attn(value, levels, locations, weights))


def test_encoder_has_one_query_per_pixel(problems):
    levels = problems.levels(64, 96)
    centers = problems.pixel_centers(levels)
    assert centers.shape == (sum(height * width for height, width in levels), 2)
    assert centers[0].tolist() == pytest.approx([0.5 / 12, 0.5 / 8])  # x before y
