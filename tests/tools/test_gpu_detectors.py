"""How the detectors' results on two devices are compared."""

import pytest
import torch


@pytest.fixture
def program(tool):
    return tool("gpu_detectors")


def test_difference_is_relative_and_notices_shapes_and_nan(program):
    expected = torch.tensor([3.0, 4.0])
    assert program.difference(expected, expected) == 0
    assert program.difference(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert program.difference(torch.tensor([3.0]), expected) == float("inf")
    assert program.difference(torch.tensor([3.0, float("nan")]), expected) == float("inf")


def test_random_numbers_are_drawn_on_the_cpu(program):
    """Random numbers of the meta device would not advance the generator of the CPU, and the permutation would be another."""
    torch.manual_seed(0)
    expected = torch.rand(3), torch.randperm(5)
    torch.manual_seed(0)
    with program.RandomOnCpu():
        assert torch.rand(3, device="meta").device.type == "meta"
        assert torch.equal(torch.randperm(5, device="cpu"), expected[1])
