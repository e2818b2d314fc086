"""DCNv4 gives the same results for any number of threads and any instruction set."""

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from flash_internimage import _C
from tests.ops.dcnv4_oracle import Case, value_and_gradients

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WIDE = Case(batch=1, size=(21, 40), groups=3, group_channels=16)
CASES = {
    "one image, few groups": WIDE,
    "one image, one group": Case(batch=1, size=(30, 41), groups=1, group_channels=24),
    "three images": Case(batch=3, size=(16, 25), groups=2, group_channels=7, kernel_size=(3, 5)),
    "fewer rows than threads": Case(batch=1, size=(2, 700), groups=1, group_channels=16),
}


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_result_is_bitwise_equal_for_any_number_of_threads(case, dtype):
    value, offset_mask = case.draw(2.0, dtype=dtype)
    torch.set_num_threads(1)
    expected = value_and_gradients(case, value, offset_mask)
    for threads in (2, 7):
        torch.set_num_threads(threads)
        for actual, desired in zip(value_and_gradients(case, value, offset_mask), expected, strict=True):
            assert torch.equal(actual, desired)


SCRIPT = """
import sys, torch
from flash_internimage import _C
from tests.ops.dcnv4_oracle import Case, value_and_gradients
from tests.ops.test_dcnv4_execution import WIDE, DTYPES
assert _C.build_info()["cpu_capability"] == sys.argv[2], _C.build_info()
torch.save([value_and_gradients(WIDE, *WIDE.draw(2.0, dtype=dtype)) for dtype in DTYPES], sys.argv[1])
"""

NAMES = {"default": "generic", "avx2": "AVX2"}


@pytest.mark.parametrize("capability", NAMES)
def test_every_instruction_set_gives_the_same_result(capability, tmp_path, repository):
    """Computes in a subprocess because PyTorch reads ATEN_CPU_CAPABILITY only once."""
    if _C.build_info()["cpu_capability"] == "generic":
        pytest.skip("this CPU, or this run, has only the generic instruction set")
    path = tmp_path / "results.pt"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), NAMES[capability]],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(repository)},
        check=True,
    )
    for dtype, results in zip(DTYPES, torch.load(path), strict=True):
        for other, ours in zip(results, value_and_gradients(WIDE, *WIDE.draw(2.0, dtype=dtype)), strict=True):
            # Sums in another order: a few roundings of the accumulation, then one of the dtype.
            accumulation = 1e-13 if dtype == torch.float64 else 1e-4
            assert_close(ours, other, rtol=2 * torch.finfo(dtype).eps, atol=accumulation)
