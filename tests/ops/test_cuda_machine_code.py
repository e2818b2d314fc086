"""Machine code of the CUDA kernels, counted by benchmarks/cuda_resources.py: properties that their speed depends on."""

import importlib.util
from types import ModuleType

import pytest

ARCHITECTURE = "9.0"
OTHER_ARCHITECTURES = ["7.5", "8.0", "10.0", "12.0"]
# Of the kernels of PyPI's DCNv4 1.0.0.post2 for one unit, from benchmarks/results/cuda_resources.md, and the factor to beat.
PEER_INSTRUCTIONS = {("forward", "float32"): 3212, ("forward", "float16"): 3588, ("backward", "float32"): 45200}
GOALS = {"forward": 1.3, "backward": 1.5}


@pytest.fixture(scope="module")
def resources(repository) -> ModuleType:
    program = repository / "benchmarks" / "cuda_resources.py"
    if not program.exists():
        pytest.skip("the copy of the sources that tools/test_torch.py makes has no benchmarks")
    spec = importlib.util.spec_from_file_location("cuda_resources", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := module.obstacle():
        pytest.skip(f"kernels cannot be compiled and disassembled here: {reason}")
    return module


@pytest.fixture(scope="module")
def counted(resources) -> dict:
    """The counts of DCNv4's kernels by direction and dtype."""
    return {
        (kernel.direction, kernel.dtype): counts for kernel, counts in count(resources, dcnv4_kernels(resources), ARCHITECTURE)
    }


def count(resources, kernels: list, architecture: str) -> list[tuple]:
    """Pairs of a kernel and its counts."""
    return list(
        zip(kernels, resources.count(resources.OURS, kernels, architecture, [str(resources.ROOT / "csrc")]), strict=True)
    )


def dcnv4_kernels(resources) -> list:
    kernels = [kernel for kernel in resources.our_kernels(ARCHITECTURE) if kernel.label == "dcnv4"]
    return [kernel for kernel in kernels if kernel.dtype in ("float32", "float16")]


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


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHER_ARCHITECTURES)
def test_all_kernels_that_models_select_on_other_architectures(resources, architecture):
    for kernel, counts in count(resources, resources.our_kernels(architecture), architecture):
        name = f"{kernel.label}, {kernel.direction}, {kernel.dtype}"
        assert counts.spill_bytes == 0, name
        if kernel.direction == "forward":
            assert {load.access_bytes for load in counts.sample_loads()} == {16}, name
            assert {store.access_bytes for store in counts.named("STG")} == {16}, name
        else:
            additions = counts.named("RED")
            assert {addition.access_bytes for addition in additions} == {16 if float(architecture) >= 9 else 4}, name
            assert len(additions) == 4, name


def test_fewer_instructions_than_the_peer(resources, counted):
    for kernel in dcnv4_kernels(resources):
        if peer := PEER_INSTRUCTIONS.get((kernel.direction, kernel.dtype)):
            ours = counted[kernel.direction, kernel.dtype].executed(kernel) * kernel.lanes
            assert peer / ours > GOALS[kernel.direction], f"{kernel.direction} in {kernel.dtype} executes {ours} instructions"


def test_stages_of_all_models_and_batches_select_the_counted_kernels(resources):
    shapes = list(resources.dcnv4_cuda.shapes(["800x1333", "800x1280"], [1, 2, 8]))
    assert len(shapes) == 96
    for shape in shapes:
        assert resources.launch_of(shape, width=8).idle < 0.01  # raises if the shape needs another kernel
