"""Properties of DCNv4 for arbitrary sizes and arguments, drawn by hypothesis."""

from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.ops.dcnv4_oracle import Case, dcnv4_oracle, value_and_gradients

pytestmark = pytest.mark.usefixtures("kernels")


@st.composite
def cases(draw, **fixed) -> Case:
    """Any case whose dilated kernel fits the padded input."""

    def pairs(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))

    drawn = {
        "batch": draw(st.integers(0, 2)),
        "size": draw(pairs(1, 7)),
        "groups": draw(st.integers(1, 4)),
        "group_channels": draw(st.sampled_from([1, 2, 3, 5, 7, 8, 16, 19, 33])),
        "kernel_size": draw(pairs(1, 5)),
        "stride": draw(pairs(1, 3)),
        "padding": draw(pairs(0, 3)),
        "dilation": draw(pairs(1, 3)),
        "offset_scale": draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])),
        "tail": draw(st.integers(0, 7)),
    }
    drawn |= fixed
    odd = all(kernel % 2 == 1 for kernel in drawn["kernel_size"]) and drawn["kernel_size"] != (1, 1)
    case = Case(**drawn, remove_center=odd and draw(st.booleans()))
    assume(min(case.output_size) >= 1)
    return case


spreads = st.sampled_from([0.3, 1.0, 10.0])
seeds = st.integers(0, 2**16)


def close(actual, expected):
    """Assert equality up to the rounding of float64 sums of a few hundred terms of order 1."""
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@given(cases(), spreads, seeds)
@settings(max_examples=150)
def test_equals_deform_conv2d(case, spread, seed):
    value, offset_mask = case.draw(spread, seed=seed)
    if case.batch == 0:
        assert case(value, offset_mask).shape == (0, *case.output_size, case.groups * case.group_channels)
        return
    actual = value_and_gradients(case, value, offset_mask)
    for ours, theirs in zip(actual, value_and_gradients(partial(dcnv4_oracle, case), value, offset_mask), strict=True):
        close(ours, theirs)


@given(cases(), spreads, seeds, st.floats(-3, 3))
@settings(max_examples=30)
def test_linear_in_value_and_in_modulation(case, spread, seed, factor):
    value, offset_mask = case.draw(spread, seed=seed)
    other, _ = case.draw(spread, seed=seed + 1)
    close(case(value + factor * other, offset_mask), case(value, offset_mask) + factor * case(other, offset_mask))
    scaled = offset_mask.clone()
    case.split(scaled)[1].mul_(factor)
    close(case(value, scaled), factor * case(value, offset_mask))


@given(cases(offset_scale=1.0), seeds, st.integers(-2, 2), st.integers(-2, 2))
@settings(max_examples=30)
def test_shifting_the_offsets_equals_shifting_the_input(case, seed, down, right):
    value, offset_mask = case.draw(seed=seed)
    # Multiples of 1/64 keep the shifted coordinates exact. A frame of zeros keeps the shifted features inside.
    offsets = case.split(offset_mask)[0]
    offsets.copy_((offsets * 64).round() / 64)
    frame = torch.nn.functional.pad(value, (0, 0, 2, 2, 2, 2))
    framed = Case(**{**vars(case), "size": (case.size[0] + 4, case.size[1] + 4)})
    offset_mask = framed.draw(seed=seed)[1]
    offsets = framed.split(offset_mask)[0]
    offsets.copy_((offsets * 64).round() / 64)
    moved = offset_mask.clone()
    framed.split(moved)[0].add_(torch.tensor([right, down]))
    rolled = frame.roll((-down, -right), dims=(1, 2))
    close(framed(frame, moved), framed(rolled, offset_mask))


@given(cases(), spreads, seeds)
@settings(max_examples=30)
def test_groups_and_images_are_independent(case, spread, seed):
    """Each group of each image, computed alone, equals its slice of the full result; gradients too."""
    value, offset_mask = case.draw(spread, seed=seed)
    whole = value_and_gradients(case, value, offset_mask, torch.ones(case.batch, *case.output_size, value.shape[3]).double())
    alone = Case(**{**vars(case), "batch": 1, "groups": 1, "tail": 0})
    for image in range(case.batch):
        for group in range(case.groups):
            channels = slice(group * case.group_channels, (group + 1) * case.group_channels)
            points = slice(group * 3 * case.points, (group + 1) * 3 * case.points)
            part = value_and_gradients(
                alone,
                value[image : image + 1, ..., channels],
                offset_mask[image : image + 1, ..., points],
                torch.ones(1, *case.output_size, case.group_channels).double(),
            )
            for slice_of_whole, ours in zip((channels, channels, points), range(3), strict=True):
                close(part[ours][0], whole[ours][image, ..., slice_of_whole])


@given(cases(), spreads, seeds, st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-310]))
@settings(max_examples=40)
def test_non_finite_and_extreme_offsets_equal_zero_modulation(case, spread, seed, extreme):
    value, offset_mask = case.draw(spread, seed=seed)
    offsets, _ = case.split(offset_mask)
    chosen = torch.rand(offsets.shape[:-1], generator=torch.Generator().manual_seed(seed)) < 0.3
    axis = seed % 2
    offsets[..., axis][chosen] = extreme
    without = offset_mask.clone()
    if abs(extreme) < 1:
        case.split(without)[0][..., axis][chosen] = 0  # a subnormal offset equals 0
    else:
        case.split(without)[1][chosen] = 0
        case.split(without)[0][..., axis][chosen] = 0
    close(case(value, offset_mask), case(value, without))
    _, grad_value, grad_offset_mask = value_and_gradients(case, value, offset_mask)
    close(grad_value, value_and_gradients(case, value, without)[1])
    assert grad_offset_mask.isfinite().all()


@given(cases(), seeds)
@settings(max_examples=30)
def test_gradient_of_value_is_the_adjoint(case, seed):
    """<w, f(v)> = <f*(w), v>: the backward pass scatters with the weights with which the forward pass gathers."""
    value, offset_mask = case.draw(seed=seed)
    output, grad_value, _ = value_and_gradients(case, value, offset_mask)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close((weight * output).sum(), (grad_value * value).sum())


@given(cases(batch=1), seeds)
@settings(max_examples=20)
def test_constant_input_gives_the_sum_of_modulations_away_from_the_border(case, seed):
    """The bilinear weights of a point add up to 1."""
    inner = Case(**{**vars(case), "size": (case.size[0] + 60, case.size[1] + 60), "padding": (0, 0), "stride": (9, 9)})
    value, offset_mask = inner.draw(0.2, seed=seed)
    inner.split(offset_mask)[0].clamp_(-1, 1)
    output = inner(torch.ones_like(value), offset_mask)
    modulations = inner.split(offset_mask)[1].sum(-1).repeat_interleave(inner.group_channels, dim=3)
    interior = (slice(None), slice(3, -3), slice(3, -3))
    assert output[interior].numel() > 0
    close(output[interior], modulations[interior])
