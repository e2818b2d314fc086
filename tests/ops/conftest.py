"""Fixtures that run the operator tests on the CPU kernels, on emulated CUDA kernels (tests/sanitized) and on a GPU."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.sanitized.cuda.emulator import VARIANTS, Emulator, Variant
from tests.sanitized.operators import installed, operators
from tests.sanitized.process import program

# The two emulated variants also differ in settings that must not change results: the first runs threads in another order,
# the second uses 64-bit indices where 32 bits would suffice.
EMULATED = {VARIANTS[0]: dict(order=1), VARIANTS[1]: dict(index_bits=64)}
KERNELS = ["CPU", *EMULATED, pytest.param("CUDA", marks=pytest.mark.gpu, id="CUDA")]


def _on_gpu(name: str) -> Callable:
    operator = getattr(torch.ops.flash_internimage, name)

    def call(*arguments):
        results = operator(*(argument.cuda() if isinstance(argument, Tensor) else argument for argument in arguments))
        return results.cpu() if isinstance(results, Tensor) else tuple(result.cpu() for result in results)

    return call


@pytest.fixture(scope="module", params=KERNELS, ids=str)
def kernels(request: pytest.FixtureRequest) -> Iterator[str | Variant]:
    """Run the tests of a module with `pytestmark = pytest.mark.usefixtures("kernels")` on each kind of kernels."""
    if request.param == "CPU":
        yield request.param
    elif request.param == "CUDA":
        names = ["dcnv4", "dcnv4_backward", "ms_deform_attn", "ms_deform_attn_backward"]
        with installed({name: _on_gpu(name) for name in names}):
            yield request.param
    else:
        with Emulator(program(request.param), **EMULATED[request.param]) as emulator, installed(operators(emulator)):
            yield request.param


@pytest.fixture(scope="module")
def assert_same(kernels: str | Variant) -> Callable[[Tensor, Tensor], None]:
    """Compare two results of the same computation: bitwise on the CPU, with tolerance for the atomic additions of CUDA."""

    def compare(actual: Tensor, expected: Tensor) -> None:
        rounding = 0 if kernels == "CPU" else 64 * torch.finfo(expected.dtype).eps
        assert_close(actual, expected, rtol=rounding, atol=rounding)

    return compare
