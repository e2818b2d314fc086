"""Random calls of both operators on sanitized kernels: no report, and the numbers of the oracles.

    python -m tests.cuda_emulator.fuzz --minutes 60
    python -m tests.cuda_emulator.fuzz --seed 7 --call 1234      # one call again, the one that a failure names

Shapes, dtypes, strides, addresses, devices and orders of threads are drawn; so are offsets and locations, among which NaN,
infinity, 1e30 and subnormal numbers lie.
"""

import argparse
import contextlib
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from flash_internimage.ops import ms_deform_attn
from tests.ops.dcnv4_oracle import Case, dcnv4_oracle
from tests.ops.ms_deform_attn_oracle import ms_deform_attn_oracle

from . import build
from .emulator import Device, Emulator, installed, operators

HOSTILE = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-40, 5e-324, -1.0, 0.0]
# Whether they vanish in a coordinate, and on which side of a kink a gradient is taken, depends on the order of additions.
UNDECIDED = [-1e-40, -5e-324]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


class Call(NamedTuple):
    """One call: `function`, and what it should equal in float64, of the same tensors."""

    description: str
    function: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    inputs: list[Tensor]
    decided: bool  # whether it has to equal that


class Draw:
    """Random choices, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.decided = self.choose.random() < 0.9

    def integer(self, low: int, high: int) -> int:
        return self.choose.randint(low, high)

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.integer(low, high), self.integer(low, high)

    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """Of value, and of points."""
        dtype = self.choose.choice(DTYPES)
        wide = dtype in (torch.float16, torch.bfloat16) and self.choose.random() < 0.5
        return dtype, torch.float32 if wide else dtype

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def exact(self, numbers: Tensor) -> Tensor:
        """Steps of 1/8: sums and products with small numbers are then exact in every dtype, and so is each point's cell."""
        return (numbers * 8).round() / 8

    def hostile(self, numbers: Tensor) -> Tensor:
        """Some of them replaced."""
        chosen = torch.rand(numbers.shape, generator=self.generator) < self.choose.choice([0.0, 0.05, 0.5])
        values = torch.tensor(HOSTILE if self.decided else HOSTILE + UNDECIDED, dtype=torch.float64)
        return torch.where(chosen, values[torch.randint(len(values), numbers.shape, generator=self.generator)], numbers)

    def layout(self, tensor: Tensor) -> Tensor:
        """The same numbers with other strides, or at an address that is no multiple of 16."""
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
    case = Case(
        batch=draw.integer(0 if draw.choose.random() < 0.1 else 1, 2),
        size=tuple(max(1, low) + draw.integer(0, 5) for low in smallest),
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
    """The call of that number, and what to draw the rest from."""
    draw = Draw(seed * 1_000_003 + number)
    return draw, draw.choose.choice([draw_dcnv4, draw_ms_deform_attn])(draw)


def results(function: Callable[..., Tensor], inputs: list[Tensor], grad_output: Tensor) -> list[Tensor]:
    """The output, and the gradients of some of the inputs: those that require one."""
    output = function(*inputs)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    return [output.detach(), *(torch.autograd.grad(output, wanted, grad_output) if wanted else ())]


def check(draw: Draw, call: Call) -> None:
    """Run a call, forward and backward, and compare.

    Raises:
        AssertionError: other numbers than the oracle's.
        EmulatorError: a sanitizer's report.
    """
    wanted = [draw.choose.random() < 0.8 for _ in call.inputs]
    inputs = [tensor.detach().requires_grad_(flag) for tensor, flag in zip(call.inputs, wanted, strict=True)]
    exact_inputs = [tensor.detach().double().requires_grad_(flag) for tensor, flag in zip(call.inputs, wanted, strict=True)]
    if inputs[0].shape[0] == 0:
        assert call.function(*inputs).shape[0] == 0
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


class AnyEmulator:
    """An emulator of each variant, one of which answers the next calls."""

    def __init__(self, variants: list[build.Variant]) -> None:
        self.emulators = [Emulator(build.build(variant)) for variant in variants]
        self.chosen = self.emulators[0]

    def choose(self, draw: Draw) -> str:
        """Draw one, and everything about it; says which."""
        self.chosen = draw.choose.choice(self.emulators)
        self.chosen.device = Device(
            multiprocessors=draw.choose.choice([1, 1, 2, 132]),
            shared_bytes_per_block=draw.choose.choice([2048, 4096, 16384, 48 * 1024]),
            blocks_per_grid=draw.choose.choice([1, 3, 2**31 - 1]),
        )
        self.chosen.index_bits = draw.choose.choice([0, 32, 64])
        self.chosen.order = draw.integer(0, 99)
        program = self.chosen.executable.parent.name
        return f"{program} {self.chosen.device} {self.chosen.index_bits} bits, order {self.chosen.order}"

    def call(self, *arguments: object) -> None:
        self.chosen.call(*arguments)

    def close(self) -> None:
        for emulator in self.emulators:
            emulator.close()


def fuzz(numbers: Iterable[int], seed: int, variants: list[build.Variant]) -> Counter[str]:
    """Draw and check the calls of these numbers, and count them by operator and dtypes.

    Raises:
        RuntimeError: a call failed; the message says how to repeat it.
    """
    counts = Counter()
    emulators = AnyEmulator(variants)
    with contextlib.closing(emulators), installed(operators(emulators)):
        for number in numbers:
            draw, call = draw_call(seed, number)
            emulator = emulators.choose(draw)
            try:
                check(draw, call)
            except (AssertionError, RuntimeError) as error:
                again = f"repeat it with --seed {seed} --call {number}"
                raise RuntimeError(f"fuzz: a call failed, {again}: {call.description} on {emulator}\n{error}") from error
            counts[" ".join(call.description.split()[:3])] += 1
    return counts


def until(seconds: float) -> Iterator[int]:
    """0, 1, 2 ... for so long."""
    start = time.monotonic()
    return itertools.takewhile(lambda _: time.monotonic() - start < seconds, itertools.count())


def main() -> int:
    """As in the module's description."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--call", type=int, help="only this one")
    arguments = parser.parse_args()
    numbers = until(60 * arguments.minutes) if arguments.call is None else [arguments.call]
    try:
        counts = fuzz(numbers, arguments.seed, [build.Variant(a, c) for a in (750, 900) for c in ("memory", "accesses")])
    except RuntimeError as error:
        print(error)
        return 1
    for description, count in sorted(counts.items()):
        print(f"{count:8} {description}")
    print(f"{counts.total()} calls, no report, no wrong number")
    return 0


if __name__ == "__main__":
    sys.exit(main())
