import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops import deform_conv2d

from flash_internimage.layers import DCNv4
from flash_internimage.layers.dcnv4 import window_centers
from tests.reference import Reference
from tests.reference.deterministic import draw_tensor


def randomize(layer: nn.Module) -> nn.Module:
    """Randomize all parameters: a new layer outputs nothing but biases, because its modulation scalars start at zero."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


def oracle(layer: DCNv4, input: Tensor) -> Tensor:
    """Compute the layer with torchvision's operator, for odd square kernels: (N, H, W, C) -> (N, Ho, Wo, C)."""
    size, groups = layer.kernel_size, layer.group
    value = layer.value_proj(input)
    features = input
    if layer.dw_kernel_size is not None:
        features = layer.offset_mask_dw(features.movedim(-1, 1)).movedim(1, -1)
    margin = layer.pad - layer.dilation * (size // 2)
    features = F.pad(features, (0, 0, margin, margin, margin, margin))[:, :: layer.stride, :: layer.stride]
    # DCNv4 numbers points column by column with offsets (x, y); torchvision row by row with offsets (y, x).
    grid = [(column, row) for column in range(size) for row in range(size)]
    if layer.remove_center:
        grid.remove((size // 2, size // 2))
    predicted = layer.offset_mask(features)[..., : 3 * len(grid) * groups].unflatten(-1, (groups, 3 * len(grid)))
    offsets = predicted.new_zeros(*predicted.shape[:4], size * size, 2)
    masks = predicted.new_zeros(*predicted.shape[:4], size * size)
    for point, (column, row) in enumerate(grid):
        regular = layer.dilation * predicted.new_tensor([column - size // 2, row - size // 2])
        offset = (regular + predicted[..., 2 * point : 2 * point + 2]) * layer.offset_scale - regular
        offsets[..., row * size + column, :] = offset.flip(-1)
        masks[..., row * size + column] = predicted[..., 2 * len(grid) + point]
    sampled = deform_conv2d(
        value.movedim(-1, 1),
        offsets.flatten(3).movedim(-1, 1),
        value.new_ones(layer.channels, 1, size, size),
        stride=layer.stride,
        padding=layer.pad,
        dilation=layer.dilation,
        mask=masks.flatten(3).movedim(-1, 1),
    ).movedim(1, -1)
    return layer.output_proj(sampled)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="published defaults"),
        pytest.param({"channels": 15, "group": 3}, id="5 channels per group"),
        pytest.param({"offset_scale": 2.0, "remove_center": True}, id="center removed"),
        pytest.param({"dw_kernel_size": 3, "output_bias": False, "offset_scale": 0.5}, id="depth-wise convolution"),
        pytest.param({"kernel_size": 5, "pad": 2, "dw_kernel_size": 5}, id="5 x 5"),
        pytest.param({"dilation": 2, "pad": 2}, id="dilated"),
        pytest.param({"stride": 2}, id="stride 2"),
        pytest.param({"stride": 3, "pad": 0}, id="stride 3, no padding"),
        pytest.param({"pad": 3, "stride": 2, "dw_kernel_size": 3}, id="wide padding"),
    ],
)
def test_equals_torchvision(arguments: dict):
    layer = randomize(DCNv4(**{"channels": 16, "group": 4, **arguments}))
    input = torch.randn(2, 7, 10, layer.channels, dtype=torch.float64)
    assert_close(layer(input), oracle(layer, input))


@pytest.mark.parametrize("case", ["plain", "depthwise", "removed"])
def test_equals_stored_outputs(case: str, reference: Reference):
    golden = reference.golden("ops")
    arguments = json.loads(str(golden[f"module/{case}/arguments"]))
    shape = arguments.pop("height"), arguments.pop("width")
    layer = DCNv4(**arguments)
    weights = {
        name: torch.from_numpy(draw_tensor(f"module.{case}.{name}", tuple(value.shape)))
        for name, value in layer.state_dict().items()
    }
    layer.load_state_dict(weights)
    output = layer.double()(torch.from_numpy(golden[f"module/{case}/input"]), shape)
    # Both are computed in float64; only the order of summation differs.
    assert_close(output, torch.from_numpy(golden[f"module/{case}/output"]), rtol=0, atol=1e-12)


def test_a_sequence_is_the_feature_map_in_row_major_order():
    layer = randomize(DCNv4(channels=8, group=2, dw_kernel_size=3))
    feature_map = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    sequence = layer(feature_map.flatten(1, 2), shape=(4, 6))
    assert_close(sequence, layer(feature_map).flatten(1, 2), rtol=0, atol=0)


def test_output_length_of_a_sequence_with_stride_2():
    layer = randomize(DCNv4(channels=8, group=2, stride=2))
    assert layer(torch.randn(2, 15, 8, dtype=torch.float64), shape=(3, 5)).shape == (2, 2 * 3, 8)


def test_offsets_are_predicted_from_the_input_not_from_the_projected_values():
    layer = randomize(DCNv4(channels=8, group=2))
    input = torch.randn(1, 5, 5, 8, dtype=torch.float64)
    nn.init.zeros_(layer.value_proj.weight)
    nn.init.ones_(layer.value_proj.bias)
    # All projected values are one, so only offsets and modulation can depend on the input.
    assert not torch.allclose(layer(input), layer(2 * input))


def test_a_new_layer_outputs_the_output_bias():
    layer = DCNv4(channels=16, group=1)
    nn.init.ones_(layer.output_proj.bias)
    assert_close(layer(torch.randn(1, 4, 4, 16)), torch.ones(1, 4, 4, 16))


def test_without_pointwise_equals_identity_projections():
    layer = randomize(DCNv4(channels=8, group=2, without_pointwise=True))
    assert {name for name, _ in layer.named_parameters()} == {"offset_mask.weight", "offset_mask.bias"}
    full = DCNv4(channels=8, group=2, output_bias=False).double()
    full.load_state_dict(layer.state_dict(), strict=False)
    for projection in (full.value_proj, full.output_proj):
        nn.init.eye_(projection.weight)
    input = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    assert_close(layer(input), full(input))


def test_center_feature_scale_blends_output_and_value():
    layer = randomize(DCNv4(channels=8, group=2, center_feature_scale=True))
    plain = DCNv4(channels=8, group=2).double()
    plain.load_state_dict(layer.state_dict(), strict=False)
    nn.init.zeros_(layer.center_feature_scale_proj_weight)
    # The gate of the first group selects the sampled value, that of the second the value before sampling.
    layer.center_feature_scale_proj_bias.data = torch.tensor([-100.0, 100.0], dtype=torch.float64)
    for module in (layer, plain):
        nn.init.eye_(module.output_proj.weight)
    input = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    output = layer(input) - layer.output_proj.bias
    assert_close(output[..., :4], plain(input)[..., :4] - plain.output_proj.bias[:4])
    assert_close(output[..., 4:], layer.value_proj(input)[..., 4:])


def test_every_parameter_gets_a_gradient():
    layer = randomize(DCNv4(channels=8, group=2, dw_kernel_size=3, center_feature_scale=True))
    layer(torch.randn(2, 5, 6, 8, dtype=torch.float64)).square().sum().backward()
    assert [name for name, parameter in layer.named_parameters() if not parameter.grad.abs().sum() > 0] == []


def test_bfloat16_autocast_stays_close():
    layer = randomize(DCNv4(channels=16, group=2, dw_kernel_size=3)).float()
    input = torch.randn(1, 6, 6, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(input)
    exact = layer(input)
    assert output.dtype == torch.bfloat16
    # bfloat16 has 8 significant bits: a few roundings of terms that are larger than their sum.
    assert_close(output.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation", "expected"),
    [
        pytest.param(3, 1, 1, 1, [1, 2, 3, 4, 5], id="same"),
        pytest.param(3, 2, 1, 1, [1, 3, 5], id="stride 2"),
        pytest.param(3, 1, 0, 1, [2, 3, 4], id="no padding"),
        pytest.param(3, 1, 2, 1, [0, 1, 2, 3, 4, 5, 0], id="windows centered in the padding"),
        pytest.param(3, 1, 2, 2, [1, 2, 3, 4, 5], id="same, dilated"),
        pytest.param(2, 1, 0, 1, [1, 2, 3, 4], id="even kernel"),
        pytest.param(2, 2, 0, 1, [1, 3], id="even kernel, stride 2"),
    ],
)
def test_window_centers(kernel_size: int, stride: int, padding: int, dilation: int, expected: list[int]):
    row = torch.arange(1, 6)
    grid = (row[:, None] * row)[None, :, :, None]
    expected_row = torch.tensor(expected)
    centers = window_centers(grid, kernel_size, stride, padding, dilation)
    assert_close(centers, (expected_row[:, None] * expected_row)[None, :, :, None])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 10, "group": 4}, "10 channels in 4 groups"),
        ({"kernel_size": 4, "remove_center": True}, "remove_center needs an odd kernel_size, got 4"),
        ({"dw_kernel_size": 2}, "dw_kernel_size must be odd"),
        ({"center_feature_scale": True, "stride": 2}, "center_feature_scale blends input and output"),
        ({"center_feature_scale": True, "pad": 0}, "center_feature_scale blends input and output"),
    ],
)
def test_contradictory_arguments(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DCNv4(**arguments)


@pytest.mark.parametrize(
    ("size", "shape", "message"),
    [
        ((1, 4, 4, 3), None, r"expected a feature map \(N, H, W, 8\)"),
        ((1, 16, 8), None, r"got input of shape \(1, 16, 8\) and no shape argument"),
        ((1, 15, 8), (4, 4), r"shape=\(4, 4\) needs a sequence \(N, 16, 8\), got input of shape \(1, 15, 8\)"),
        ((1, 4, 4, 8), (4, 4), "needs a sequence"),
    ],
)
def test_inputs_of_the_wrong_shape(size: tuple[int, ...], shape: tuple[int, int] | None, message: str):
    with pytest.raises(ValueError, match=message):
        DCNv4(channels=8, group=2)(torch.zeros(size), shape)
