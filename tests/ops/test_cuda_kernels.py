"""Emulated CUDA kernels: launch configurations, vectorized and misaligned accesses, tensors beyond 32-bit indices."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flash_internimage import _C
from flash_internimage.ops import ms_deform_attn
from tests.ops import dcnv4_oracle, test_ms_deform_attn
from tests.ops.dcnv4_oracle import Case
from tests.ops.ms_deform_attn_oracle import ms_deform_attn_oracle
from tests.sanitized.cuda.emulator import VARIANTS, Device, Emulator
from tests.sanitized.operators import DCNv4, MultiScaleDeformableAttention, installed, operators
from tests.sanitized.process import Buffer, program

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)

DEVICES = {
    "several iterations per block": Device(blocks_per_grid=2),
    "blocks of one warp": Device(multiprocessors=1000),
}
# Numbers of channels that take several turns of the lanes, that have specialized kernels, that fill vectors exactly, and
# that leave lanes idle.
CHANNELS = [80, 32, 16, 24, 3]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


class Problem(NamedTuple):
    """A small call: `run(*inputs)` and `oracle(*inputs)` both compute the output and all gradients."""

    run: Callable[..., tuple[Tensor, ...]]
    oracle: Callable[..., tuple[Tensor, ...]]
    inputs: tuple


def dcnv4_problem(channels: int, dtype: torch.dtype) -> Problem:
    case = Case(size=(3, 4), groups=3, group_channels=channels)

    def oracle(value, offset_mask):
        return dcnv4_oracle.dcnv4_oracle(case, value.double(), offset_mask.double()).to(dtype)

    numbers = dcnv4_oracle.value_and_gradients
    return Problem(partial(numbers, case), partial(numbers, oracle), case.draw(dtype=dtype))


def attention_problem(channels: int, dtype: torch.dtype) -> Problem:
    def oracle(value, shapes, locations, weights):
        return ms_deform_attn_oracle(value.double(), shapes, locations.double(), weights.double()).to(dtype)

    numbers = test_ms_deform_attn.value_and_gradients
    inputs = test_ms_deform_attn.draw(2, 3, 2, channels, [(3, 2), (2, 2)], 4, dtype)
    return Problem(partial(numbers, ms_deform_attn), partial(numbers, oracle), inputs)


each_operator = pytest.mark.parametrize("draw", [dcnv4_problem, attention_problem], ids=["dcnv4", "ms_deform_attn"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES.keys())
@each_operator
@each_variant
def test_equals_the_oracle_for_every_launch_configuration(variant, draw, device, channels, dtype):
    problem = draw(channels, dtype)
    with Emulator(program(variant), device) as emulator, installed(operators(emulator)):
        actual = problem.run(*problem.inputs)
    for ours, theirs in zip(actual, problem.oracle(*problem.inputs), strict=True):
        # Rounding of a sum of dozens of terms, plus one rounding to the dtype on each side.
        accumulation = 1e-12 if dtype == torch.float64 else 1e-5
        scale = theirs.abs().max().item()
        assert_close(ours.double(), theirs.double(), rtol=2 * torch.finfo(dtype).eps, atol=accumulation * scale)


# Nine points of 16 channels have an unrolled kernel, which must not be chosen for any other number of points.
WINDOWS = {
    "9 points, stride and dilation": Case(size=(7, 6), group_channels=16, stride=(1, 2), dilation=(2, 1)),
    "9 points in a row": Case(size=(3, 9), group_channels=16, kernel_size=(1, 9), padding=(0, 4), offset_scale=0.5),
    "8 points, center removed": Case(size=(4, 5), group_channels=16, remove_center=True),
    "10 points": Case(size=(5, 4), group_channels=16, kernel_size=(5, 2)),
}


@pytest.mark.parametrize("case", WINDOWS.values(), ids=WINDOWS.keys())
@each_variant
def test_dcnv4_with_the_usual_channels_and_any_window(variant, case):
    value, offset_mask = case.draw(dtype=torch.float32)
    with Emulator(program(variant)) as emulator, installed(operators(emulator)):
        actual = dcnv4_oracle.value_and_gradients(case, value, offset_mask)
    expected = dcnv4_oracle.value_and_gradients(partial(dcnv4_oracle.dcnv4_oracle, case), value.double(), offset_mask.double())
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("index_bits", [32, 64])
@each_operator
@each_variant
def test_result_does_not_depend_on_thread_order_or_index_type(variant, draw, index_bits, order):
    problem = draw(40, torch.float32)
    results = []
    for settings in ({}, dict(index_bits=index_bits, order=order)):
        with Emulator(program(variant), **settings) as emulator, installed(operators(emulator)):
            results.append(problem.run(*problem.inputs))
    for number, (one, other) in enumerate(zip(*results, strict=True)):
        # Only the gradient of value is accumulated in an order that depends on the threads. Kernels with 64-bit indices have
        # another number of lanes, over which they sum the gradients of points.
        rounding = 1e-5 if number == 1 or (number > 1 and index_bits == 64) else 0
        assert_close(one, other, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("misaligned", ["value", "offset_mask", "grad_output"])
@each_variant
def test_dcnv4_with_a_misaligned_tensor(variant, misaligned, dtype):
    """Gives the same result as aligned tensors, without vectorized accesses, which the emulator would reject."""
    case = Case(size=(4, 3), group_channels=16)
    value, offset_mask = case.draw(dtype=dtype)
    tensors = dict(value=value, offset_mask=offset_mask, grad_output=torch.randn(value.shape).to(dtype))
    settings = list(case.settings.values())
    with Emulator(program(variant)) as emulator:
        operator = DCNv4(emulator)

        def results():
            inputs = tensors["value"], tensors["offset_mask"]
            return operator.forward(*inputs, *settings), *operator.backward(
                tensors["grad_output"], *inputs, *settings, True, True
            )

        expected = results()
        aligned = tensors[misaligned]
        moved = torch.empty(aligned.numel() + 1, dtype=dtype)[1:].view(aligned.shape).copy_(aligned)
        assert moved.data_ptr() % 16 == dtype.itemsize
        tensors[misaligned] = moved
        for ours, aligned_result in zip(results(), expected, strict=True):
            rounding = 2 * torch.finfo(dtype).eps
            assert_close(ours, aligned_result, rtol=rounding, atol=10 * rounding)


# Only the last END positions exist in memory, of a feature map with two billion positions.
# The last strip of rows (dcnv4_points_cuda.cuh) is a single row.
HEIGHT, WIDTH, GROUPS, END = 50_001, 40_960, 2, 256


def last_blocks() -> tuple[int, int]:
    """Range of the blocks that process the last END positions, with one lane per unit of one channel."""
    plan = _C.plan_cuda_launch(HEIGHT * WIDTH * GROUPS, 1, 1, 1)
    assert HEIGHT * WIDTH * GROUPS == plan["units_per_block"] * plan["blocks"] > 2**31
    return plan["blocks"] - END * GROUPS // plan["units_per_block"], plan["blocks"]


def at_end(role: str, per_position: int, *ends: torch.Tensor) -> Buffer:
    """A buffer of `per_position` elements per position, in which the last len(ends) rows end with `ends`."""
    row, position = WIDTH * per_position * ends[0].itemsize, per_position * ends[0].itemsize
    parts = [((HEIGHT - len(ends) + i + 1) * row - END * position, end) for i, end in enumerate(ends)]
    return Buffer(role, HEIGHT * row, parts)


@each_variant
def test_dcnv4_on_more_elements_than_32_bit_indices(variant):
    small = Case(size=(2, END), groups=GROUPS, group_channels=1, kernel_size=(1, 1), padding=(0, 0), tail=0)
    value, offset_mask = small.draw(dtype=torch.float32)
    # Odd multiples of 1/128 pixel are exact in float32 even far from the origin, and place no point on the border of the two
    # rows, where it would be inside the large feature map but outside the small one.
    offsets = small.split(offset_mask)[0]
    offsets.copy_(((offsets * 64).floor() + 0.5) / 64)
    offset_mask[:, 0, :, :] = 0  # the first of the two rows samples nothing
    weight = torch.randn(1, 2, END, GROUPS)
    expected = dcnv4_oracle.value_and_gradients(small, value, offset_mask, weight)

    settings = [(1, 1), (1, 1), (0, 0), (1, 1), GROUPS, 1.0, False]
    shape = torch.empty(1, device="meta").expand(1, HEIGHT, WIDTH, GROUPS)
    points_shape = torch.empty(1, device="meta").expand(1, HEIGHT, WIDTH, 3 * GROUPS)
    inputs = {"value": at_end("input", GROUPS, *value[0]), "offset_mask": at_end("input", 3 * GROUPS, offset_mask[0, 1])}
    output, grad_value, grad_offset_mask = torch.empty(END, GROUPS), torch.empty(2, END, GROUPS), torch.empty(END, 3 * GROUPS)
    with Emulator(program(variant), blocks=last_blocks()) as emulator:
        operator = DCNv4(emulator)
        emulator.call(
            operator.fields("forward", shape, points_shape, *settings),
            inputs | {"output": at_end("output", GROUPS, output)},
        )
        emulator.call(
            operator.fields("backward", shape, points_shape, *settings),
            inputs
            | {
                "grad_output": at_end("input", GROUPS, weight[0, 1]),
                "grad_value": at_end("sum", GROUPS, *grad_value),
                "grad_offset_mask": at_end("output", 3 * GROUPS, grad_offset_mask),
            },
        )
    assert_close(output, expected[0][0, 1])
    assert_close(grad_value, expected[1][0])
    assert_close(grad_offset_mask, expected[2][0, 1])


@each_variant
def test_ms_deform_attn_on_more_elements_than_32_bit_indices(variant):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    value, weights, grad_output = draw(2 * END, GROUPS, 1), draw(END, GROUPS, 1, 1), draw(END, GROUPS)
    pixels = torch.stack([torch.arange(END), torch.ones(END)], -1)[:, None] + draw(END, GROUPS, 2)
    small, large = torch.tensor([END, 2]), torch.tensor([WIDTH, HEIGHT])
    locations = ((pixels + 0.5) / small).view(END, GROUPS, 1, 1, 2)
    expected = test_ms_deform_attn.value_and_gradients(
        ms_deform_attn, value[None], [(2, END)], locations[None], weights[None], grad_output[None]
    )

    far_locations = (pixels + 0.5 + large - small) / large
    shape = torch.empty(1, device="meta", dtype=torch.float64).expand(1, HEIGHT * WIDTH, GROUPS, 1)
    points_shape = torch.empty(1, device="meta", dtype=torch.float64).expand(1, HEIGHT * WIDTH, GROUPS, 1, 1, 2)
    inputs = {
        "value": at_end("input", GROUPS, *value.view(2, END, GROUPS)),
        "sampling_locations": at_end("input", 2 * GROUPS, far_locations),
        "attention_weights": at_end("input", GROUPS, weights),
    }
    output, grad_value, grad_locations, grad_weights = (
        torch.empty(*shape, dtype=torch.float64) for shape in [(END, GROUPS), (2, END, GROUPS), (END, GROUPS, 2), (END, GROUPS)]
    )
    with Emulator(program(variant), blocks=last_blocks()) as emulator:
        operator = MultiScaleDeformableAttention(emulator)
        emulator.call(
            operator.fields("forward", shape, [HEIGHT, WIDTH], points_shape),
            inputs | {"output": at_end("output", GROUPS, output)},
        )
        emulator.call(
            operator.fields("backward", shape, [HEIGHT, WIDTH], points_shape),
            inputs
            | {
                "grad_output": at_end("input", GROUPS, grad_output),
                "grad_value": at_end("sum", GROUPS, *grad_value),
                "grad_sampling_locations": at_end("output", 2 * GROUPS, grad_locations),
                "grad_attention_weights": at_end("output", GROUPS, grad_weights),
            },
        )
    # Locations near 1 are rounded by 1e-16, pixel coordinates therefore by 1e-11.
    close = partial(assert_close, rtol=1e-9, atol=1e-9)
    close(output, expected[0][0])
    close(grad_value.flatten(), expected[1].flatten())
    close(grad_locations / large, expected[2].view(END, GROUPS, 2) / small)
    close(grad_weights.flatten(), expected[3].flatten())
