"""Results of the attention operator: oracle, values by hand, stored values, gradients, low precision, properties."""

import json

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from flash_internimage.ops import ms_deform_attn
from tests.ops.ms_deform_attn_oracle import ms_deform_attn_oracle

pytestmark = pytest.mark.usefixtures("kernels")

Inputs = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]

CASES = {
    "four levels, as in DINO": dict(
        batch=2, queries=7, heads=8, channels=32, shapes=[(8, 6), (4, 3), (2, 2), (1, 1)], points=4
    ),
    "one level": dict(batch=1, queries=5, heads=2, channels=8, shapes=[(5, 9)], points=4),
    "odd sizes": dict(batch=3, queries=11, heads=3, channels=13, shapes=[(7, 5), (1, 4), (3, 1)], points=3),
    "one channel, one point, one head": dict(batch=2, queries=3, heads=1, channels=1, shapes=[(4, 4)], points=1),
    "more channels than any vector": dict(batch=1, queries=4, heads=2, channels=67, shapes=[(3, 4), (2, 2)], points=5),
    "more points than fit one pass": dict(batch=1, queries=2, heads=2, channels=8, shapes=[(3, 4)] * 9, points=11),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def draw(batch, queries, heads, channels, shapes, points, dtype=torch.float64, seed=0) -> Inputs:
    """Random inputs; locations extend beyond all borders, so that some points and some corners are outside."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(batch, tokens, heads, channels, dtype=torch.float64, generator=generator)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=torch.float64, generator=generator)
    weights = torch.randn(batch, queries, heads, len(shapes), points, dtype=torch.float64, generator=generator)
    return value.to(dtype), shapes, (locations * 1.6 - 0.3).to(dtype), weights.to(dtype)


def value_and_gradients(function, value, shapes, locations, weights, grad_output=None) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (value, locations, weights)]
    output = function(leaves[0], shapes, leaves[1], leaves[2])
    if grad_output is None:
        generator = torch.Generator().manual_seed(1)
        grad_output = torch.randn(output.shape, dtype=torch.float64, generator=generator)
    return output.detach(), *torch.autograd.grad(output, leaves, grad_output.to(output))


# Values and gradients


@each_case
def test_equals_grid_sample_in_float64(case):
    inputs = draw(**case)
    assert_close(value_and_gradients(ms_deform_attn, *inputs), value_and_gradients(ms_deform_attn_oracle, *inputs))


@each_case
def test_float32_equals_float64_up_to_rounding(case):
    inputs = draw(**case, dtype=torch.float32)
    expected = value_and_gradients(ms_deform_attn_oracle, *(x.double() if isinstance(x, Tensor) else x for x in inputs))
    for actual, exact in zip(value_and_gradients(ms_deform_attn, *inputs), expected, strict=True):
        assert actual.dtype == torch.float32
        # A location of order 1 is rounded by 6e-8 before it is scaled by at most 9 pixels.
        assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wide_locations", [False, True], ids=["half-precision locations", "float32 locations"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@each_case
def test_half_precision_accumulates_in_float32(case, dtype, wide_locations):
    value, shapes, locations, weights = draw(**case, dtype=dtype)
    if wide_locations:
        locations, weights = locations.float() + 1e-3, weights.float() + 1e-3
    grad_output = torch.randn(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]).to(dtype)
    actual = value_and_gradients(ms_deform_attn, value, shapes, locations, weights, grad_output)
    exact = value_and_gradients(
        ms_deform_attn_oracle, value.double(), shapes, locations.double(), weights.double(), grad_output
    )
    assert [x.dtype for x in actual] == [dtype, dtype, locations.dtype, weights.dtype]
    for result, expected in zip(actual, exact, strict=True):
        # One rounding of the result, plus the rounding errors of float32.
        rounding = torch.finfo(result.dtype).eps if result.dtype != torch.float32 else 1e-5
        assert_close(result.double(), expected, rtol=rounding, atol=1e-5 * expected.abs().max().item())


def test_by_hand():
    value = torch.arange(25.0).view(1, 25, 1, 1)
    center_of_a_pixel = [2.5 / 5, 1.5 / 5]  # value 7
    between_four_pixels = [2 / 5, 3 / 5]  # values 11, 12, 16 and 17
    half_beyond_the_left_edge = [0.0, 2.5 / 5]  # value 10
    outside = [-0.1 - 1e-6, 0.5]
    locations = torch.tensor([center_of_a_pixel, between_four_pixels, half_beyond_the_left_edge, outside]).view(
        1, 4, 1, 1, 1, 2
    )
    output = ms_deform_attn(value, [(5, 5)], locations, torch.full((1, 4, 1, 1, 1), 2.0))
    assert_close(output.flatten(), 2 * torch.tensor([7.0, 14.0, 5.0, 0.0]))


def test_gradcheck():
    value, shapes, locations, weights = draw(**CASES["odd sizes"] | dict(batch=1, queries=3))
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, p, w: ms_deform_attn(v, shapes, p, w), leaves)


@pytest.mark.parametrize("needed", ["value", "sampling_locations", "attention_weights"])
def test_a_gradient_computed_alone_equals_the_one_computed_with_the_others(needed, assert_same):
    value, shapes, locations, weights = draw(**CASES["odd sizes"])
    everything = value_and_gradients(ms_deform_attn, value, shapes, locations, weights)
    inputs = dict(value=value, sampling_locations=locations, attention_weights=weights)
    inputs[needed] = inputs[needed].clone().requires_grad_()
    output = ms_deform_attn(spatial_shapes=shapes, **inputs)
    generator = torch.Generator().manual_seed(1)
    output.backward(torch.randn(output.shape, dtype=torch.float64, generator=generator))
    assert_same(inputs[needed].grad, everything[1 + list(inputs).index(needed)])


@pytest.mark.parametrize("number", range(4))
def test_equals_the_stored_results(reference, number):
    stored = reference.golden("ops")
    assert len(json.loads(str(stored["ms_deform_attn/cases"]))) == 4
    case = {
        name.split("/")[2]: torch.from_numpy(array)
        for name, array in stored.items()
        if name.startswith(f"ms_deform_attn/{number:02}/")
    }
    arguments = [case[name] for name in ("value", "spatial_shapes", "sampling_locations", "attention_weights", "weight")]
    names = ("output", "grad_value", "grad_sampling_locations", "grad_attention_weights")
    for name, actual in zip(names, value_and_gradients(ms_deform_attn, *arguments), strict=True):
        assert_close(actual, case[name], rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


# Empty shapes, memory layouts, extreme locations


@pytest.mark.parametrize(
    "change", [dict(batch=0), dict(queries=0), dict(points=0), dict(heads=0), dict(channels=0)], ids=lambda change: f"{change}"
)
def test_empty(change):
    inputs = draw(**CASES["odd sizes"] | change)
    actual = value_and_gradients(ms_deform_attn, *inputs)
    shapes = [inputs[0].shape, inputs[2].shape, inputs[3].shape]
    assert actual[0].shape == (inputs[0].shape[0], inputs[2].shape[1], inputs[0].shape[2] * inputs[0].shape[3])
    assert [gradient.shape for gradient in actual[1:]] == shapes
    assert all((result == 0).all() for result in actual)


def test_no_levels():
    inputs = draw(**CASES["odd sizes"] | dict(shapes=[]))
    assert all((result == 0).all() for result in value_and_gradients(ms_deform_attn, *inputs))


def test_an_empty_level_reads_as_zero():
    value, shapes, locations, weights = draw(**CASES["odd sizes"])
    with_empty = [*shapes[:1], (0, 4), *shapes[2:]]
    value = torch.cat([value[:, :35], value[:, 39:]], dim=1)
    actual = ms_deform_attn(value, with_empty, locations, weights)
    kept = [0, 2]
    assert_close(
        actual, ms_deform_attn_oracle(value, shapes[:1] + shapes[2:], locations[:, :, :, kept], weights[:, :, :, kept])
    )


def test_non_contiguous_inputs_give_the_same_result(assert_same):
    value, shapes, locations, weights = draw(**CASES["odd sizes"])
    expected = value_and_gradients(ms_deform_attn, value, shapes, locations, weights)
    strided = (
        value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        shapes,
        locations.repeat_interleave(2, dim=1)[:, ::2],
        weights.transpose(1, 4).contiguous().transpose(1, 4),
    )
    assert not any(tensor.is_contiguous() for tensor in strided if isinstance(tensor, Tensor))
    for actual, desired in zip(value_and_gradients(ms_deform_attn, *strided), expected, strict=True):
        assert_same(actual, desired)
    value.requires_grad_()
    ms_deform_attn(value, shapes, locations, weights).sum().backward()  # an expanded gradient has strides of zero
    contiguous = torch.ones(expected[0].shape, dtype=torch.float64)
    assert_same(value.grad, value_and_gradients(ms_deform_attn, value, shapes, locations, weights, contiguous)[1])


def test_spatial_shapes_as_a_tensor():
    value, shapes, locations, weights = draw(**CASES["odd sizes"])
    expected = ms_deform_attn(value, shapes, locations, weights)
    for dtype in (torch.int64, torch.int32):
        assert torch.equal(ms_deform_attn(value, torch.tensor(shapes, dtype=dtype), locations, weights), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("extreme", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-40], ids=str)
def test_extreme_locations(extreme, dtype):
    value, shapes, locations, weights = draw(**CASES["odd sizes"], dtype=dtype)
    extreme_locations = locations.clone()
    number = torch.tensor(extreme, dtype=torch.float64).to(dtype)  # infinite if the dtype has no such number
    extreme_locations[:, ::2, :, :, 1, 0] = number
    extreme_locations[:, 1::2, :, 1, :, 1] = number
    grad_output = torch.randn(3, 11, 3 * 13).to(dtype)
    results = value_and_gradients(ms_deform_attn, value, shapes, extreme_locations, weights, grad_output)
    exact_inputs = (value.double(), shapes, extreme_locations.double(), weights.double(), grad_output)
    for actual, exact in zip(results, value_and_gradients(ms_deform_attn_oracle, *exact_inputs), strict=True):
        assert_close(actual.double(), exact, rtol=1e-5 + torch.finfo(dtype).eps, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_pixels_that_no_point_samples_are_not_read(dtype):
    """NaN in a pixel with interpolation weight 0 must not reach the result."""
    value, shapes, locations, weights = draw(**CASES["odd sizes"], dtype=dtype)
    locations = locations * 0 + 1.5 / 5  # below the first row of the first level, which is 7 x 5
    weights = weights.clone()
    locations[:, :, :, 1:] = -1.0
    value[:, 35:] = float("nan")
    value[:, :5] = float("nan")
    results = value_and_gradients(ms_deform_attn, value, shapes, locations, weights)
    assert all(result.isfinite().all() for result in results)
    assert (results[1][:, 35:] == 0).all()
    assert (results[2][:, :, :, 1:] == 0).all()
    assert (results[3][:, :, :, 1:] == 0).all()


# Properties

small = st.integers(1, 4)
settings = st.fixed_dictionaries(
    dict(
        batch=st.integers(1, 2), queries=small, heads=st.integers(1, 3), channels=st.integers(1, 20), points=small,
        shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3), seed=st.integers(0, 1000),
    )
)  # fmt: skip


@hypothesis.given(settings)
def test_equals_grid_sample_for_any_sizes(case):
    inputs = draw(**case)
    assert_close(value_and_gradients(ms_deform_attn, *inputs), value_and_gradients(ms_deform_attn_oracle, *inputs))


@hypothesis.given(settings, st.floats(-3, 3))
def test_linear_in_value_and_in_weights(case, factor):
    value, shapes, locations, weights = draw(**case)
    more_value, _, _, more_weights = draw(**case | dict(seed=case["seed"] + 1))
    plain = ms_deform_attn(value, shapes, locations, weights)
    assert_close(
        ms_deform_attn(value + factor * more_value, shapes, locations, weights),
        plain + factor * ms_deform_attn(more_value, shapes, locations, weights),
    )
    assert_close(
        ms_deform_attn(value, shapes, locations, weights + factor * more_weights),
        plain + factor * ms_deform_attn(value, shapes, locations, more_weights),
    )


@hypothesis.given(settings)
def test_heads_and_images_are_independent(assert_same, case):
    value, shapes, locations, weights = draw(**case)
    whole = value_and_gradients(ms_deform_attn, value, shapes, locations, weights)
    grad_output = torch.randn(whole[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    head, image = case["heads"] - 1, case["batch"] - 1
    channels = slice(head * case["channels"], (head + 1) * case["channels"])
    alone = value_and_gradients(
        ms_deform_attn, value[image:, :, head:], shapes, locations[image:, :, head:], weights[image:, :, head:],
        grad_output[image:, :, channels],
    )  # fmt: skip
    assert torch.equal(alone[0], whole[0][image:, :, channels])
    for gradient, of_all in zip(alone[1:], whole[1:], strict=True):
        assert_same(gradient, of_all[image:, :, head:])


@hypothesis.given(settings, st.integers(0, 3), st.integers(0, 3))
def test_shifting_feature_map_and_locations_gives_the_same_result(case, down, right):
    """Padding the feature map at the top and left and shifting the locations accordingly samples the same pixels."""
    case = case | dict(shapes=case["shapes"][:1])
    value, [(height, width)], locations, weights = draw(**case)
    feature_maps = value.unflatten(1, (height, width))
    padded = torch.nn.functional.pad(feature_maps, (0, 0, 0, 0, right, 0, down, 0)).flatten(1, 2)
    pixels = locations * torch.tensor([width, height]) + torch.tensor([right, down])
    moved = pixels / torch.tensor([width + right, height + down], dtype=torch.float64)
    assert_close(
        ms_deform_attn(padded, [(height + down, width + right)], moved, weights),
        ms_deform_attn(value, [(height, width)], locations, weights),
    )


@hypothesis.given(settings)
def test_result_does_not_depend_on_the_order_of_points(case):
    value, shapes, locations, weights = draw(**case)
    assert_close(
        ms_deform_attn(value, shapes, locations.flip(4), weights.flip(4)), ms_deform_attn(value, shapes, locations, weights)
    )
