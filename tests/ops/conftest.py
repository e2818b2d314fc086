"""What runs the operators: CPU kernels, plain or under sanitizers, or CUDA kernels, emulated or on a GPU (tests/sanitized)."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.sanitized.cuda.emulator import VARIANTS, Emulator, Variant
from tests.sanitized.operators import installed, operators
from tests.sanitized.process import program

# What the two do not have to have in common differs: turns of threads in order or not, 64-bit indices or what sizes ask for.
EMULATED = {VARIANTS[0]: dict(order=1), VARIANTS[1]: dict(index_bits=64)}
KERNELS = ["CPU", *EMULATED]
if torch.cuda.is_available():  # otherwise a third of all tests of operators would be listed as skipped
    KERNELS.append("CUDA")


def _on_gpu(name: str) -> Callable:
    operator = getattr(torch.ops.flash_internimage, name)

    def call(*arguments):
        results = operator(*(argument.cuda() if isinstance(argument, Tensor) else argument for argument in arguments))
        return results.cpu() if isinstance(results, Tensor) else tuple(result.cpu() for result in results)

    return call


@pytest.fixture(scope="module", params=KERNELS, ids=str)
def kernels(request: pytest.FixtureRequest) -> Iterator[str | Variant]:
    """Where a module says `pytestmark = pytest.mark.usefixtures("kernels")`, CPU tensors go to each of these in turn."""
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
    """Compares what is computed twice: bits, except that CUDA kernels add up in whatever order their threads come."""

    def compare(actual: Tensor, expected: Tensor) -> None:
        rounding = 0 if kernels == "CPU" else 64 * torch.finfo(expected.dtype).eps
        assert_close(actual, expected, rtol=rounding, atol=rounding)

    return compare
