"""Launch configurations of the CUDA kernels, which are plain arithmetic and need no GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage import _C

MULTIPROCESSORS = {"T4 (7.5)": 40, "A100 (8.0)": 108, "RTX 3060 (8.6)": 28, "H100 (9.0)": 132}
WARP, MOST_THREADS = 32, 256


def plan(device, units, channels=16, width=8):
    return _C.plan_cuda_launch(units, channels, width, MULTIPROCESSORS[device])


@pytest.mark.parametrize("device", MULTIPROCESSORS)
@given(units=st.integers(1, 2**40), channels=st.integers(1, 2048), width=st.sampled_from([1, 2, 4, 8]))
def test_every_launch_is_legal_and_covers_the_work(device, units, channels, width):
    chosen = plan(device, units, channels, width)
    lanes = chosen["lanes"]
    assert WARP % lanes == 0, "shuffles need a divisor of the warp size"
    assert chosen["threads"] % WARP == 0
    assert chosen["threads"] == lanes * chosen["units_per_block"]
    assert chosen["threads"] <= MOST_THREADS, "kernels are compiled for this many"
    assert 1 <= chosen["blocks"] < 2**31
    if chosen["blocks"] < 2**31 - 1:  # otherwise a block processes several sets of units
        assert (chosen["blocks"] - 1) * chosen["units_per_block"] < units <= chosen["blocks"] * chosen["units_per_block"]


@pytest.mark.parametrize(
    ("channels", "width", "lanes"),
    [(16, 4, 4), (16, 8, 2), (1, 1, 1), (23, 1, 32), (112, 1, 32), (32, 8, 4), (20, 4, 8)],
)
def test_lanes_cover_the_channels_of_a_unit(channels, width, lanes):
    assert plan("H100 (9.0)", 10**6, channels, width)["lanes"] == lanes


def test_small_problems_use_smaller_blocks():
    assert plan("H100 (9.0)", 13 * 19 * 8)["threads"] < plan("H100 (9.0)", 200 * 304 * 4)["threads"]


def test_block_size_does_not_grow_with_the_number_of_groups():
    """80 groups of 16 channels, as in size L, behave like 4."""
    assert plan("T4 (7.5)", 25 * 38 * 80)["threads"] <= MOST_THREADS
