"""Machine code of the CUDA kernels, counted by benchmarks/cuda_resources.py: properties that their speed depends on."""

import importlib.util
from types import ModuleType

import pytest

ARCHITECTURE = "9.0"


@pytest.fixture(scope="module")
def resources(repository) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_resources", repository / "benchmarks" / "cuda_resources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.obstacle():
        pytest.skip(f"kernels cannot be compiled and disassembled here: {reason}")
    return module


@pytest.fixture(scope="module")
def counted(resources) -> dict:
    """The counts of DCNv4's kernels by direction and dtype."""
    kernels = [kernel for kernel in resources.our_kernels(ARCHITECTURE) if kernel.label == "dcnv4"]
    kernels = [kernel for kernel in kernels if kernel.dtype in ("float32", "float16")]
    counts = resources.count(resources.OURS, kernels, ARCHITECTURE, [str(resources.ROOT / "csrc")])
    return {(kernel.direction, kernel.dtype): entry for kernel, entry in zip(kernels, counts, strict=True)}


def test_nothing_spills(counted):
    assert {key: counts.spill_bytes for key, counts in counted.items()} == dict.fromkeys(counted, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_forward_reads_and_writes_16_bytes_at_a_time(counted, dtype):
    counts = counted["forward", dtype]
    assert {load.access_bytes for load in counts.sample_loads()} == {16}
    assert {store.access_bytes for store in counts.named("STG")} == {16}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_backward_adds_16_bytes_at_a_time(counted, dtype):
    """Four neighboring lanes therefore fill two sectors of 32 bytes."""
    assert [addition.access_bytes for addition in counted["backward", dtype].named("RED")] == [16] * 4


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_reads_of_four_corners_are_in_flight_together(counted, direction, dtype):
    assert counted[direction, dtype].loads_in_flight() >= 4
