"""Fuzzing: random calls of both operators on kernels under sanitizers, compared with the oracles.

    python -m tests.sanitized.fuzz --minutes 60
    python -m tests.sanitized.fuzz --programs cpu
    python -m tests.sanitized.fuzz --programs "sanitized avx2" --seed 7 --call 1234      # repeats one call, after a failure

Shapes, dtypes, strides, addresses, devices, the order of threads and the work of each are random. So are offsets and
locations, which include NaN, infinity, 1e30 and subnormal numbers.
"""

import argparse
import contextlib
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from flash_internimage.ops import ms_deform_attn
from tests.ops.dcnv4_oracle import Case, dcnv4_oracle
from tests.ops.ms_deform_attn_oracle import ms_deform_attn_oracle

from .build import Variant, executable, obstacle
from .cpu import kernels as cpu
from .cuda import emulator as cuda
from .operators import installed, operators
from .process import Buffer, Fields

HOSTILE = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40, 5e-324, -1.0, 0.0]
# Whether these vanish in a coordinate, and so the side of a kink on which the gradient is taken, depends on rounding.
UNDECIDED = [-1e-40, -5e-324]
PROGRAMS = {"cpu": cpu.ALL, "cuda": cuda.ALL}
PROGRAMS |= {str(variant): [variant] for variant in [*cpu.ALL, *cpu.TESTED, *cuda.ALL]}
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


class Call(NamedTuple):
    """One call: `function`, and the `oracle` that it should match, computed in float64 from the same tensors."""

    description: str
    function: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    inputs: list[Tensor]
    decided: bool  # whether the result is independent of rounding, so that it has to match


class Draw:
    """Random choices from one seed."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.decided = self.choose.random() < 0.9

    def integer(self, low: int, high: int) -> int:
        return self.choose.randint(low, high)

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.integer(low, high), self.integer(low, high)

    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """The dtypes of value and of point tensors."""
        dtype = self.choose.choice(DTYPES)
        wide = dtype in (torch.float16, torch.bfloat16) and self.choose.random() < 0.5
        return dtype, torch.float32 if wide else dtype

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def exact(self, numbers: Tensor) -> Tensor:
        """Round to multiples of 1/8, so that sums and products with small numbers, and each point's cell, are exact."""
        return (numbers * 8).round() / 8

    def hostile(self, numbers: Tensor) -> Tensor:
        """Replace some numbers by NaN, infinity and the like."""
        chosen = torch.rand(numbers.shape, generator=self.generator) < self.choose.choice([0.0, 0.05, 0.5])
        values = torch.tensor(HOSTILE if self.decided else HOSTILE + UNDECIDED, dtype=torch.float64)
        return torch.where(chosen, values[torch.randint(len(values), numbers.shape, generator=self.generator)], numbers)

    def layout(self, tensor: Tensor) -> Tensor:
        """The same tensor with other strides, or at an address that is not a multiple of 16."""
        kind = self.choose.choice(["plain", "plain", "permuted", "strided", "misaligned"])
        if kind == "permuted":
            order = self.choose.sample(range(tensor.dim()), tensor.dim())
            back = [order.index(axis) for axis in range(tensor.dim())]
            return tensor.permute(order).contiguous().permute(back)
        if kind == "strided":
            return torch.stack([tensor, torch.full_like(tensor, float("nan"))], -1)[..., 0]
        if kind == "misaligned":
            shift = self.integer(1, 7)
            return torch.empty(tensor.numel() + shift, dtype=tensor.dtype)[shift:].view(tensor.shape).copy_(tensor)
        return tensor


def draw_dcnv4(draw: Draw) -> Call:
    kernel_size, dilation, stride, padding = draw.pair(1, 5), draw.pair(1, 3), draw.pair(1, 3), draw.pair(0, 4)
    smallest = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel_size, dilation, padding, strict=True)]
    fewest = 0 if draw.choose.random() < 0.1 else 1
    case = Case(
        batch=draw.integer(fewest, 2),
        size=tuple(max(fewest, low) + draw.integer(0, 5) for low in smallest),
        groups=draw.integer(1, 4),
        group_channels=draw.choose.choice([1, 2, 3, 4, 7, 8, 16, 17, 24, 33, 40, 64, 129]),
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        offset_scale=draw.choose.choice([0.25, 0.5, 1.0, 2.0]),
        remove_center=kernel_size[0] % 2 == kernel_size[1] % 2 == 1 and kernel_size != (1, 1) and draw.choose.random() < 0.5,
        tail=draw.integer(0, 7),
    )
    dtype, points_dtype = draw.dtypes()
    value, offset_mask = case.draw(seed=draw.integer(0, 2**31))
    offsets, modulations = case.split(offset_mask)
    offsets.copy_(draw.hostile(draw.exact(offsets * draw.choose.choice([0.3, 1.0, 10.0]))))
    modulations.copy_(draw.exact(modulations))
    return Call(
        f"dcnv4 {dtype} {points_dtype} {case}",
        case,
        partial(dcnv4_oracle, case),
        [draw.layout(value.to(dtype)), draw.layout(offset_mask.to(points_dtype))],
        draw.decided,
    )


def draw_ms_deform_attn(draw: Draw) -> Call:
    batch, queries, heads, points = draw.integer(1, 2), draw.integer(1, 9), draw.integer(1, 4), draw.integer(1, 6)
    channels = draw.choose.choice([1, 2, 3, 4, 7, 8, 16, 17, 24, 32, 33, 67])
    shapes = [draw.pair(1, 8) for _ in range(draw.integer(1, 5))]
    empty = draw.choose.choice(["batch", "queries", "heads", "points", "channels", "shapes"] + 50 * [""])
    batch, queries, heads, points, channels = (
        0 if name == empty else size
        for name, size in dict(batch=batch, queries=queries, heads=heads, points=points, channels=channels).items()
    )
    shapes = [] if empty == "shapes" else shapes
    dtype, points_dtype = draw.dtypes()
    locations = draw.exact(
        torch.rand(batch, queries, heads, len(shapes), points, 2, generator=draw.generator).double() * 2 - 0.5
    )
    tensors = [
        draw.normal(batch, sum(height * width for height, width in shapes), heads, channels).to(dtype),
        draw.hostile(locations).to(points_dtype),
        draw.exact(draw.normal(batch, queries, heads, len(shapes), points)).to(points_dtype),
    ]
    return Call(
        f"ms_deform_attn {dtype} {points_dtype} {[*tensors[0].shape]} {shapes} {[*tensors[1].shape]}",
        lambda value, locations, weights: ms_deform_attn(value, shapes, locations, weights),
        lambda value, locations, weights: ms_deform_attn_oracle(value, shapes, locations, weights),
        [draw.layout(tensor) for tensor in tensors],
        draw.decided,
    )


def draw_call(seed: int, number: int) -> tuple[Draw, Call]:
    """The call of that number, and the random generator for the rest of it."""
    draw = Draw(seed * 1_000_003 + number)
    return draw, draw.choose.choice([draw_dcnv4, draw_ms_deform_attn])(draw)


def results(function: Callable[..., Tensor], inputs: list[Tensor], grad_output: Tensor | None) -> list[Tensor]:
    """The output and the gradients of the inputs that require one. `grad_output` defaults to ones."""
    output = function(*inputs)
    grad_output = torch.ones_like(output) if grad_output is None else grad_output
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    return [output.detach(), *(torch.autograd.grad(output, wanted, grad_output) if wanted else ())]


def check(draw: Draw, call: Call) -> None:
    """Run a call forward and backward, and compare with the oracle.

    Raises:
        AssertionError: a result differs from the oracle's.
        KernelError: a sanitizer reported an error.
    """
    wanted = [draw.choose.random() < 0.8 for _ in call.inputs]
    inputs = [tensor.detach().requires_grad_(flag) for tensor, flag in zip(call.inputs, wanted, strict=True)]
    exact_inputs = [tensor.detach().double().requires_grad_(flag) for tensor, flag in zip(call.inputs, wanted, strict=True)]
    if any(tensor.numel() == 0 for tensor in inputs):
        output, *gradients = results(call.function, inputs, None)
        assert all((gradient == 0).all() for gradient in [output, *gradients])
        return
    with torch.no_grad():
        shape = call.oracle(*exact_inputs).shape
    grad_output = draw.layout(draw.normal(*shape).to(inputs[0].dtype))
    actual = results(call.function, inputs, grad_output)
    if not call.decided:
        return
    expected = results(call.oracle, exact_inputs, grad_output.double())
    for ours, theirs in zip(actual, expected, strict=True):
        accumulation = 1e-11 if ours.dtype == torch.float64 else 1e-4
        scale = 1 + theirs.abs().max().item() if theirs.numel() else 1
        torch.testing.assert_close(
            ours.double(), theirs, rtol=2 * torch.finfo(ours.dtype).eps, atol=accumulation * scale, equal_nan=False
        )


class AnyProcess:
    """One process per variant, of which `choose` selects the one for the next call."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.processes = {str(variant): variant.start(executable(variant)) for variant in variants}

    def able(self, call: Call) -> list[str]:
        """The variants that are compiled for the call's dtypes."""
        dtypes = call.inputs[0].dtype, call.inputs[1].dtype
        return [name for name, process in self.processes.items() if process.runs(*dtypes)]

    def choose(self, call: Call, seed: str) -> tuple[str, str]:
        """Choose an able variant at random, and its variation; return both. Neither depends on the other variants' choices."""
        name = random.Random(f"{seed} process").choice(self.able(call))
        self.chosen = self.processes[name]
        return name, self.chosen.vary(random.Random(f"{seed} variation"))

    @property
    def writes_unused(self) -> bool:
        return self.chosen.writes_unused

    def call(self, fields: Fields, buffers: dict[str, Buffer]) -> None:
        self.chosen.call(fields, buffers)

    def close(self) -> None:
        for process in self.processes.values():
            process.close()


def fuzz(numbers: Iterable[int], seed: int, variants: Sequence[Variant]) -> Counter[str]:
    """Check the random calls of these numbers, except those for whose dtypes no variant is compiled.

    Returns:
        The number of calls by operator, dtypes and variant.

    Raises:
        RuntimeError: a call failed; the message says how to repeat it.
    """
    counts = Counter()
    processes = AnyProcess(variants)
    with contextlib.closing(processes), installed(operators(processes)):
        for number in numbers:
            draw, call = draw_call(seed, number)
            if not processes.able(call):
                continue
            program, variation = processes.choose(call, f"{seed} {number}")
            try:
                check(draw, call)
            except (AssertionError, RuntimeError) as error:
                again = f"repeat it with --programs '{program}' --seed {seed} --call {number}"
                raise RuntimeError(f"fuzz: a call failed, {again}: {call.description}, {variation}\n{error}") from error
            counts[" ".join([*call.description.split()[:3], "on", program])] += 1
    return counts


def until(seconds: float) -> Iterator[int]:
    """Count from 0 for this time."""
    start = time.monotonic()
    yield from itertools.takewhile(lambda _: time.monotonic() - start < seconds, itertools.count())


def main() -> int:
    """Run the command line that the module's description shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--call", type=int, help="only this one")
    parser.add_argument(
        "--programs", nargs="+", choices=PROGRAMS, default=["cpu", "cuda"], metavar="NAME", help=", ".join(PROGRAMS)
    )
    arguments = parser.parse_args()
    if obstacle() is not None:
        print(obstacle())
        return 1
    numbers = until(60 * arguments.minutes) if arguments.call is None else [arguments.call]
    try:
        counts = fuzz(numbers, arguments.seed, [variant for name in arguments.programs for variant in PROGRAMS[name]])
    except RuntimeError as error:
        print(error)
        return 1
    for description, count in sorted(counts.items()):
        print(f"{count:8} {description}")
    print(f"{counts.total()} calls, no report, no wrong number")
    return 0


if __name__ == "__main__":
    sys.exit(main())
