"""Launch configurations of the CUDA kernels, which are plain arithmetic and need no GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage import _C

# Multiprocessors, threads and shared memory (bytes) per multiprocessor, shared memory per block; CUDA programming guide.
DEVICES = {
    "T4 (7.5)": (40, 1024, 64 * 1024, 48 * 1024),
    "A100 (8.0)": (108, 2048, 164 * 1024, 48 * 1024),
    "RTX 3060 (8.6)": (28, 1536, 100 * 1024, 48 * 1024),
    "H100 (9.0)": (132, 2048, 228 * 1024, 48 * 1024),
}
WARP = 32
FORWARD, BACKWARD = 32, 48  # bytes per point in float32


def plan(device, units, channels=16, vector_width=4, points=9, bytes_per_point=FORWARD):
    return _C.plan_cuda_launch(units, channels, vector_width, points, bytes_per_point, *DEVICES[device])


@pytest.mark.parametrize("device", DEVICES)
@given(
    units=st.integers(1, 2**40),
    channels=st.integers(1, 2048),
    vector_width=st.sampled_from([1, 2, 4, 8]),
    points=st.integers(1, 200),
    bytes_per_point=st.sampled_from([FORWARD, BACKWARD, 96]),
)
def test_every_launch_is_legal_and_covers_the_work(device, units, channels, vector_width, points, bytes_per_point):
    chosen = plan(device, units, channels, vector_width, points, bytes_per_point)
    _, threads_per_multiprocessor, _, shared_bytes_per_block = DEVICES[device]
    lanes = chosen["lanes"]
    assert WARP % lanes == 0, "shuffle reductions need a divisor of the warp size"
    assert chosen["threads"] % WARP == 0
    assert chosen["threads"] == lanes * chosen["units_per_block"]
    assert chosen["threads"] <= min(1024, threads_per_multiprocessor)
    assert 1 <= chosen["points_per_pass"] <= points
    assert chosen["shared_bytes"] == chosen["points_per_pass"] * chosen["units_per_block"] * bytes_per_point
    assert chosen["shared_bytes"] <= shared_bytes_per_block
    assert 1 <= chosen["blocks"] < 2**31
    if chosen["blocks"] < 2**31 - 1:  # otherwise a block processes several sets of units
        assert (chosen["blocks"] - 1) * chosen["units_per_block"] < units <= chosen["blocks"] * chosen["units_per_block"]


@pytest.mark.parametrize(
    ("channels", "vector_width", "lanes"),
    [(16, 4, 4), (16, 8, 2), (1, 1, 1), (23, 1, 32), (112, 1, 32), (32, 8, 4), (20, 4, 8)],
)
def test_lanes_cover_the_channels_of_a_unit(channels, vector_width, lanes):
    assert plan("H100 (9.0)", 10**6, channels, vector_width)["lanes"] == lanes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bytes_per_point", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_shared_memory_allows_full_occupancy(device, bytes_per_point):
    chosen = plan(device, 10**6, bytes_per_point=bytes_per_point)
    _, threads, shared_bytes, _ = DEVICES[device]
    assert chosen["shared_bytes"] * (threads // chosen["threads"]) <= shared_bytes


def test_points_are_spread_evenly_over_passes():
    """If seven of nine points fit, two passes take five and four points, not seven and two."""
    chosen = plan("A100 (8.0)", 10**6, channels=8, vector_width=8, points=9, bytes_per_point=BACKWARD)
    passes = -(-9 // chosen["points_per_pass"])
    assert passes > 1
    assert chosen["points_per_pass"] == -(-9 // passes)


def test_small_problems_use_smaller_blocks():
    assert plan("H100 (9.0)", 13 * 19 * 8)["threads"] < plan("H100 (9.0)", 200 * 304 * 4)["threads"]


def test_many_groups_fit_a_block():
    """The block size does not grow with the number of groups: 80 groups of 16 channels, as in size L, behave like 4."""
    assert plan("T4 (7.5)", 25 * 38 * 80, bytes_per_point=BACKWARD)["threads"] <= 128
