"""Results of DCNv4: oracle, values by hand, stored values, gradients, low precision, extreme offsets, empty tensors."""

import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from flash_internimage.ops import dcnv4
from flash_internimage.ops.dcnv4 import output_size
from tests.ops.dcnv4_oracle import Case, dcnv4_oracle, value_and_gradients

pytestmark = pytest.mark.usefixtures("kernels")

CASES = {
    "as published": Case(batch=2, size=(7, 9), groups=4, group_channels=16, tail=4),
    "unequal kernel, stride, padding, dilation": Case(
        batch=2, size=(9, 8), kernel_size=(3, 2), stride=(2, 1), padding=(0, 2), dilation=(2, 1)
    ),
    "center removed": Case(size=(6, 5), kernel_size=(5, 3), padding=(2, 1), remove_center=True),
    "offset_scale above 1": Case(offset_scale=2.0, dilation=(1, 2), padding=(2, 2)),
    "offset_scale below 1": Case(offset_scale=0.5, kernel_size=(4, 3), remove_center=False),
    "one point": Case(kernel_size=(1, 1), padding=(0, 0), group_channels=3),
    "more points than fit one block": Case(size=(6, 7), kernel_size=(5, 7), padding=(2, 3), tail=0),
    "padding larger than the feature map": Case(size=(2, 1), padding=(5, 4)),
    "1 channel per group": Case(groups=5, group_channels=1, tail=0),
    "23 channels per group": Case(groups=3, group_channels=23),
    "37 channels per group": Case(groups=1, group_channels=37, tail=5),
    "1 x 1 feature map": Case(size=(1, 1), group_channels=2),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.mark.parametrize("spread", [0.7, 4.0], ids=["small offsets", "large offsets"])
@each_case
def test_equals_deform_conv2d_in_float64(case, spread):
    value, offset_mask = case.draw(spread)
    actual = value_and_gradients(case, value, offset_mask)
    expected = value_and_gradients(partial(dcnv4_oracle, case), value, offset_mask)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        # Sums of a few hundred products of order 1 in float64.
        assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_zero_offsets_equal_deform_conv2d():
    """At the start of training every point lies on a pixel: a kink of bilinear sampling, where the right-hand slope is used."""
    case = Case(batch=2, stride=(1, 2), padding=(0, 0))
    value, offset_mask = case.draw()
    case.split(offset_mask)[0].zero_()
    actual = value_and_gradients(case, value, offset_mask)
    expected = value_and_gradients(partial(dcnv4_oracle, case), value, offset_mask)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("position", [(-1.0, 2.0), (5.0, 2.0), (2.0, -1.0), (2.0, 5.0)], ids=["left", "right", "top", "bottom"])
def test_a_point_exactly_one_pixel_outside_gets_no_value_and_no_gradient(position):
    """-1 < x < W and -1 < y < H are strict inequalities: at the border itself a one-sided slope would not be zero."""
    value = torch.randn(1, 5, 5, 3)
    offset_mask = torch.tensor([*position, 1.0]).expand(1, 5, 5, 3)[:, :1, :1].contiguous()
    offset_mask = torch.nn.functional.pad(offset_mask, (0, 0, 0, 4, 0, 4), value=100.0)
    for result in value_and_gradients(partial(dcnv4, kernel_size=1), value, offset_mask):
        assert (result == 0).all()


def test_by_hand():
    """One point on a 5 x 5 feature map of 0..24, shifted by half a pixel right and down: the mean of four pixels."""
    value = torch.arange(25.0).view(1, 5, 5, 1)
    offset_mask = torch.tensor([0.5, 0.5, 2.0]).expand(1, 5, 5, 3)
    output = dcnv4(value, offset_mask, kernel_size=1)[0, :, :, 0]
    assert output[0, 0] == 2 * (0 + 1 + 5 + 6) / 4
    assert output[3, 2] == 2 * (17 + 18 + 22 + 23) / 4
    assert output[0, 4] == 2 * (4 + 9) / 4  # the right half of the weights is outside
    assert output[4, 4] == 2 * 24 / 4


def test_points_are_numbered_column_by_column():
    """With one modulation scalar set to 1, the output is the input shifted by the position of that point in the window."""
    value = torch.arange(25.0).view(1, 5, 5, 1)
    for point, (column, row) in enumerate((column, row) for column in (-1, 0, 1) for row in (-1, 0, 1)):
        offset_mask = torch.zeros(1, 5, 5, 27)
        offset_mask[..., 18 + point] = 1
        output = dcnv4(value, offset_mask, kernel_size=3, padding=1)
        assert output[0, 2, 2, 0] == value[0, 2 + row, 2 + column, 0]


def test_offsets_are_x_before_y():
    value = torch.arange(25.0).view(1, 5, 5, 1)
    offset_mask = torch.tensor([2.0, 0.0, 1.0]).expand(1, 5, 5, 3)
    assert dcnv4(value, offset_mask, kernel_size=1)[0, 2, 0, 0] == value[0, 2, 2, 0]


def test_offset_scale_stretches_the_grid():
    """With offset_scale 2 and zero offsets, the left point of the window is two pixels to the left of the center."""
    value = torch.arange(25.0).view(1, 5, 5, 1)
    offset_mask = torch.zeros(1, 5, 5, 27)
    offset_mask[..., 18 + 1] = 1  # first column, middle row
    assert dcnv4(value, offset_mask, kernel_size=3, padding=1, offset_scale=2.0)[0, 2, 3, 0] == value[0, 2, 1, 0]


@pytest.mark.parametrize("number", range(14))
def test_equals_the_stored_results(reference, number):
    arrays = reference.golden("ops")
    names = ["value", "offset_mask", "weight", "output", "grad_value", "grad_offset_mask"]
    value, offset_mask, weight, *expected = (torch.from_numpy(arrays[f"dcnv4/{number:02d}/{name}"]) for name in names)
    stored = json.loads(str(arrays["dcnv4/cases"]))[number]
    function = partial(
        dcnv4,
        kernel_size=stored["kernel_size"],
        stride=stored["stride"],
        padding=stored["pad"],
        dilation=stored["dilation"],
        groups=stored["group"],
        offset_scale=stored["offset_scale"],
        remove_center=bool(stored["remove_center"]),
    )
    for actual, desired in zip(value_and_gradients(function, value, offset_mask, weight), expected, strict=True):
        assert_close(actual, desired, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "case",
    [
        Case(size=(4, 3), groups=2, group_channels=3),
        Case(size=(4, 5), kernel_size=(2, 3), stride=(2, 1), padding=(1, 0), offset_scale=0.7, group_channels=2, batch=2),
        Case(size=(3, 4), remove_center=True, offset_scale=2.0, group_channels=1),
    ],
    ids=["3x3", "unequal", "center removed"],
)
def test_gradcheck(case):
    value, offset_mask = case.draw()
    offset_mask = offset_mask.nan_to_num(0.0)  # the tail
    # Keep offsets away from the kinks of bilinear sampling: gradcheck perturbs each by 1e-6.
    offsets = case.split(offset_mask)[0]
    offsets[(offsets * case.offset_scale - (offsets * case.offset_scale).round()).abs() < 1e-3] += 0.01
    assert torch.autograd.gradcheck(case, (value.requires_grad_(), offset_mask.requires_grad_()))


@pytest.mark.parametrize("needed", ["value", "offset_mask"])
def test_a_gradient_computed_alone_equals_the_one_computed_with_the_other(needed, assert_same):
    case = Case()
    value, offset_mask = case.draw()
    both = dict(zip(["value", "offset_mask"], value_and_gradients(case, value, offset_mask)[1:], strict=True))
    inputs = {"value": value, "offset_mask": offset_mask}
    inputs[needed] = inputs[needed].clone().requires_grad_()
    output = case(**inputs)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(output, inputs[needed], weight)
    assert_same(gradient, both[needed])


def test_unused_channels_get_zero_gradients():
    case = Case(tail=7)
    _, _, gradient = value_and_gradients(case, *case.draw())
    assert (gradient[..., -7:] == 0).all()
    assert (gradient[..., :-7] != 0).any()


def tolerance(case, value, offset_mask, dtype):
    """Tolerances of a result in `dtype` against float64, for inputs that are exact in both.

    Each of the 4K products has the rounding error of a coordinate (proportional to its distance from the origin) times the
    slope between two pixels, plus a few roundings of product and sum, all in float32. Then one rounding to `dtype`.
    """
    offsets, modulations = case.split(offset_mask.double())
    reach = (max(case.size) + offsets.abs().max() * case.offset_scale).item()
    product = (value.double().abs().max() * modulations.abs().max()).item()
    float32_error = torch.finfo(torch.float32).eps * 4 * case.points * product * (2 * reach + 4 * case.points)
    return {"rtol": torch.finfo(dtype).eps, "atol": float32_error}


@pytest.mark.parametrize("wide_points", [False, True], ids=["offset_mask in the dtype of value", "offset_mask in float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_case
def test_accumulates_in_float32(case, dtype, wide_points):
    value, offset_mask = case.draw()
    value = value.to(dtype)
    offset_mask = offset_mask.to(torch.float32 if wide_points else dtype)
    output, grad_value, grad_offset_mask = value_and_gradients(case, value, offset_mask)
    expected = value_and_gradients(case, value.double(), offset_mask.double(), weight=_weight(output).double())
    assert (output.dtype, grad_value.dtype, grad_offset_mask.dtype) == (dtype, dtype, offset_mask.dtype)
    bounds = tolerance(case, value, offset_mask, dtype)
    assert_close(output.double(), expected[0], **bounds)
    # The gradient of a pixel sums over all output positions that sample it, that of an offset over the channels of its group.
    collected = case.output_size[0] * case.output_size[1]
    assert_close(grad_value.double(), expected[1], rtol=bounds["rtol"], atol=bounds["atol"] * collected)
    points = tolerance(case, value, offset_mask, offset_mask.dtype)
    scale = 8 * case.group_channels * max(1.0, case.offset_scale)
    assert_close(grad_offset_mask.double(), expected[2], rtol=points["rtol"], atol=points["atol"] * scale)


def _weight(output):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_half_precision_value_is_read_exactly(dtype):
    """A 1 x 1 kernel returns all 65,536 bit patterns unchanged, including subnormal numbers, infinities and NaN."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    value = numbers.view(1, 64, 64, 16)
    # The other three corners have weight 0, but infinity times 0 is NaN: separate the values by zeros.
    value = value.repeat_interleave(2, 1).repeat_interleave(2, 2)
    value[:, 1::2] = 0
    value[:, :, 1::2] = 0
    output = dcnv4(value, torch.tensor([0.0, 0.0, 1.0], dtype=dtype).expand(1, 128, 128, 3), kernel_size=1)
    assert_close(output[:, ::2, ::2].flatten(), numbers, rtol=0, atol=0, equal_nan=True)


EXTREME = {"NaN": float("nan"), "inf": float("inf"), "-inf": -float("inf"), "huge": 3e38, "-huge": -3e38}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("axis", [0, 1], ids=["x", "y"])
@pytest.mark.parametrize("extreme", EXTREME.values(), ids=EXTREME.keys())
def test_points_with_extreme_offsets_are_outside(extreme, axis, dtype, assert_same):
    """Such points act like points with modulation 0: they read nothing, get zero gradients and do not affect other points."""
    case = Case(group_channels=16)
    value, offset_mask = case.draw(dtype=dtype)
    without = offset_mask.clone()
    offsets, modulations = case.split(offset_mask)
    offsets[:, 2, ::2, 1, 3, axis] = extreme
    modulations[:, 2, ::2, 1, 3] = float("nan")
    case.split(without)[1][:, 2, ::2, 1, 3] = 0

    output, grad_value, grad_offset_mask = value_and_gradients(case, value, offset_mask)
    expected_output, expected_grad_value, expected_grad_offset_mask = value_and_gradients(case, value, without)
    assert torch.equal(output, expected_output)
    assert_same(grad_value, expected_grad_value)
    actual_offsets, actual_modulations = case.split(grad_offset_mask)
    assert (actual_offsets[:, 2, ::2, 1, 3] == 0).all()
    assert (actual_modulations[:, 2, ::2, 1, 3] == 0).all()
    expected_offsets, expected_modulations = case.split(expected_grad_offset_mask)
    expected_offsets[:, 2, ::2, 1, 3] = 0
    expected_modulations[:, 2, ::2, 1, 3] = 0
    assert torch.equal(grad_offset_mask, expected_grad_offset_mask)


@pytest.mark.parametrize("group_channels", [1, 16], ids=["scalar", "vector"])
def test_pixels_that_no_point_samples_are_not_read(group_channels):
    """A NaN in the last pixel must not leak into points whose corners outside the feature map are clamped to other pixels."""
    case = Case(size=(4, 4), groups=1, group_channels=group_channels, kernel_size=(1, 1), padding=(0, 0), tail=0)
    value, offset_mask = case.draw()
    offset_mask[..., :2] = -0.5
    offset_mask[:, 1:, :, :2] = 100.0
    value[:, 1:] = float("nan")
    value[:, 0, -1] = float("nan")
    output, _, gradient = value_and_gradients(case, value, offset_mask)
    assert output[:, 0, :-1].isfinite().all()
    assert (output[:, 1:] == 0).all()
    assert gradient[:, 0, :-1].isfinite().all()
    assert (gradient[:, 1:] == 0).all()


def test_infinite_modulation_ignores_corners_outside_the_feature_map():
    """Infinity times the zeros that stand for these corners would be NaN."""
    offset_mask = torch.tensor([-0.5, -0.5, float("inf")]).expand(1, 2, 2, 3)
    assert (dcnv4(torch.ones(1, 2, 2, 16), offset_mask, kernel_size=1) == float("inf")).all()


EMPTY = {
    "no images": Case(batch=0),
    "no rows": Case(size=(0, 5), padding=(2, 1)),
    "no channels": Case(group_channels=0),
}


@pytest.mark.parametrize("case", EMPTY.values(), ids=EMPTY.keys())
def test_empty(case):
    value, offset_mask = case.draw()
    output, grad_value, grad_offset_mask = value_and_gradients(case, value, offset_mask)
    assert output.shape == (case.batch, *case.output_size, case.groups * case.group_channels)
    assert grad_value.shape == value.shape
    assert grad_offset_mask.shape == offset_mask.shape
    assert (output == 0).all()
    assert (grad_offset_mask == 0).all()


def test_non_contiguous_inputs_give_the_same_result(assert_same):
    case = Case(batch=2, group_channels=5)
    value, offset_mask = case.draw()
    expected = value_and_gradients(case, value, offset_mask)
    channels_first = value.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    every_other = torch.stack([offset_mask, torch.zeros_like(offset_mask)], dim=-1)[..., 0]
    output = case(channels_first, every_other)
    assert not channels_first.is_contiguous()
    assert not every_other.is_contiguous()
    weight = _weight(output).permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not weight.is_contiguous()
    for actual, desired in zip(value_and_gradients(case, channels_first, every_other, weight), expected, strict=True):
        assert_same(actual, desired)


def test_expanded_output_gradient(assert_same):
    case = Case()
    value, offset_mask = case.draw()
    value.requires_grad_()
    case(value, offset_mask).sum().backward()
    expected = value_and_gradients(case, value, offset_mask, weight=torch.ones_like(case(value, offset_mask)))[1]
    assert_same(value.grad, expected)


@pytest.mark.parametrize("kernel_size", range(1, 5))
@pytest.mark.parametrize("stride", range(1, 4))
@pytest.mark.parametrize("dilation", range(1, 3))
def test_output_size_equals_that_of_a_convolution(kernel_size, stride, dilation):
    convolution = torch.nn.Conv1d(1, 1, kernel_size, stride, padding=2, dilation=dilation)
    for size in range(4, 9):
        assert output_size(size, kernel_size, stride, 2, dilation) == convolution(torch.zeros(1, size)).shape[-1]
