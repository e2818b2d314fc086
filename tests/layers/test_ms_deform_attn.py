"""The attention layer: sampling locations, initialization, padding, precision, error messages."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from flash_internimage.layers import MSDeformAttn
from flash_internimage.layers.ms_deform_attn import sampling_locations
from tests.ops.ms_deform_attn_oracle import ms_deform_attn_oracle

SHAPES = [(6, 8), (3, 4), (2, 2)]
TOKENS = 48 + 12 + 4


@pytest.fixture
def layer() -> MSDeformAttn:
    layer = MSDeformAttn(embed_dim=24, num_heads=4, num_levels=3, num_points=2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


def draw(box: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(2, 5, 24, dtype=dtype),
        torch.randn(2, TOKENS, 24, dtype=dtype),
        torch.rand(2, 5, 3, 4 if box else 2, dtype=dtype),
    )


def by_hand(layer: MSDeformAttn, query: Tensor, value: Tensor, reference_points: Tensor, padding: Tensor) -> Tensor:
    """Compute the layer by its definition, level by level and point by point, with the oracle of the operator."""
    offsets = layer.sampling_offsets(query).view(2, 5, 4, 3, 2, 2)
    weights = layer.attention_weights(query).view(2, 5, 4, 6).softmax(-1).view(2, 5, 4, 3, 2)
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(SHAPES):
        for point in range(2):
            x, y = reference_points[:, :, None, level, 0], reference_points[:, :, None, level, 1]
            if reference_points.shape[-1] == 4:
                x_unit, y_unit = reference_points[:, :, None, level, 2] / 4, reference_points[:, :, None, level, 3] / 4
            else:
                x_unit, y_unit = 1 / width, 1 / height
            locations[:, :, :, level, point, 0] = x + offsets[:, :, :, level, point, 0] * x_unit
            locations[:, :, :, level, point, 1] = y + offsets[:, :, :, level, point, 1] * y_unit
    value = (layer.value_proj(value) * (~padding)[..., None]).view(2, TOKENS, 4, 6)
    return layer.output_proj(ms_deform_attn_oracle(value, SHAPES, locations, weights))


@pytest.mark.parametrize("box", [False, True], ids=["points", "boxes"])
def test_equals_the_definition(layer, box):
    query, value, reference_points = draw(box)
    padding = torch.rand(2, TOKENS) < 0.2
    expected = by_hand(layer, query, value, reference_points, padding)
    assert_close(layer(query, value, reference_points, SHAPES, padding), expected)
    assert_close(layer(query, value, reference_points, torch.tensor(SHAPES), padding), expected)


def test_locations_by_hand():
    offsets = torch.tensor([2.0, -1.0]).expand(1, 1, 1, 1, 4, 2)
    shapes = torch.tensor([[5, 10]])
    about_a_point = sampling_locations(offsets, torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), shapes)
    assert_close(about_a_point[0, 0, 0, 0, 3], torch.tensor([0.5 + 2 / 10, 0.5 - 1 / 5]))
    about_a_box = sampling_locations(offsets, torch.tensor([0.5, 0.5, 0.4, 0.8]).view(1, 1, 1, 4), shapes)
    assert_close(about_a_box[0, 0, 0, 0, 3], torch.tensor([0.5 + 2 * 0.4 / 8, 0.5 - 0.8 / 8]))


def test_initial_offsets_have_one_direction_per_head():
    layer = MSDeformAttn(embed_dim=32, num_heads=8, num_levels=2, num_points=3)
    assert (layer.sampling_offsets.weight == 0).all()
    offsets = layer.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    compass = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(compass):
        for point in range(3):
            expected = torch.tensor(direction, dtype=torch.float32) * (point + 1)
            assert_close(offsets[head, :, point], expected.expand(2, 2), rtol=0, atol=2e-6)
    assert (layer.attention_weights.weight == 0).all()
    assert (layer.attention_weights.bias == 0).all()
    for projection in (layer.value_proj, layer.output_proj):
        bound = math.sqrt(6 / 64)
        assert projection.weight.abs().max() <= bound
        assert projection.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert (projection.bias == 0).all()


def test_parameters_have_the_published_names():
    shapes = {name: tuple(parameter.shape) for name, parameter in MSDeformAttn().named_parameters()}
    assert shapes == {
        "sampling_offsets.weight": (256, 256),
        "sampling_offsets.bias": (256,),
        "attention_weights.weight": (128, 256),
        "attention_weights.bias": (128,),
        "value_proj.weight": (256, 256),
        "value_proj.bias": (256,),
        "output_proj.weight": (256, 256),
        "output_proj.bias": (256,),
    }


def test_padded_values_do_not_affect_the_output(layer):
    query, value, reference_points = draw()
    padding = torch.zeros(2, TOKENS, dtype=torch.bool)
    padding[0, 40:60] = True
    value.requires_grad_()
    output = layer(query, value, reference_points, SHAPES, padding)
    (gradient,) = torch.autograd.grad(output.square().sum(), value)
    assert (gradient[padding] == 0).all()
    assert (gradient[~padding] != 0).any()
    for junk in (1e6, float("nan"), float("inf")):
        corrupted = value.detach().clone()
        corrupted[padding] = junk
        assert torch.equal(layer(query, corrupted, reference_points, SHAPES, padding), output)


def test_gradients_reach_every_parameter_and_input(layer):
    inputs = [tensor.requires_grad_() for tensor in draw()]
    layer(*inputs, SHAPES).square().sum().backward()
    for tensor in (*inputs, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert (tensor.grad != 0).any()


def test_locations_keep_float32_under_autocast(layer):
    """Near 1, bfloat16 has a spacing of 1/256: 4 pixels of a feature map of width 1024, whose values alternate here."""
    layer = MSDeformAttn(embed_dim=8, num_heads=1, num_levels=1, num_points=1)
    with torch.no_grad():
        layer.value_proj.weight.copy_(torch.eye(8))
        layer.output_proj.weight.copy_(torch.eye(8))
        layer.sampling_offsets.bias.zero_()
    value = (torch.arange(1024) % 2).float().view(1, 1024, 1).expand(1, 1024, 8)
    pixels = torch.tensor([600, 801, 1022, 1023])
    reference_points = torch.stack([(pixels + 0.5) / 1024, torch.full((4,), 0.5)], dim=-1).view(1, 4, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(torch.randn(1, 4, 8), value, reference_points, [(1, 1024)])
    assert output.dtype == torch.bfloat16
    assert_close(output[0, :, 0].float(), torch.tensor([0.0, 1.0, 0.0, 1.0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_runs_in_the_dtype_of_its_parameters(layer, dtype):
    exact_inputs = draw()
    exact = layer(*exact_inputs, SHAPES)
    output = layer.to(dtype)(*(tensor.to(dtype) for tensor in exact_inputs), SHAPES)
    assert output.dtype == dtype
    assert (output.double() - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(query=torch.zeros(2, 5, 8)), r"query must be \(batch, tokens, 24\), got shape \(2, 5, 8\)"),
        (dict(value=torch.zeros(TOKENS, 24)), r"value must be \(batch, tokens, 24\), got shape \(64, 24\)"),
        (dict(reference_points=torch.zeros(2, 5, 2)), r"must be \(2, 5, 3, 2\) or \(2, 5, 3, 4\), got shape \(2, 5, 2\)"),
        (dict(reference_points=torch.zeros(2, 5, 3, 3)), r"must be .*, got shape \(2, 5, 3, 3\)"),
        (dict(spatial_shapes=SHAPES[:2]), "spatial_shapes must have 3 levels"),
        (dict(key_padding_mask=torch.zeros(2, 5, dtype=torch.bool)), r"key_padding_mask must be \(2, 64\) like value"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_messages(layer, change, message):
    query, value, reference_points = draw()
    inputs = dict(query=query, value=value, reference_points=reference_points, spatial_shapes=SHAPES)
    with pytest.raises(ValueError, match=message):
        layer(**inputs | change)


def test_embed_dim_must_be_divisible_by_num_heads():
    with pytest.raises(ValueError, match="embed_dim must be divisible by num_heads, got 10 and 4"):
        MSDeformAttn(embed_dim=10, num_heads=4)
