import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from flash_internimage.errors import UserError
from flash_internimage.layers import DCNv4, DCNv4Conv2d
from tests.ops.dcnv4_oracle import Case, dcnv4_oracle

# in_channels, out_channels and the arguments that follow; sizes that nothing divides, even kernels, and the stem of a network.
ARGUMENTS = [
    pytest.param((5, 7, 3), {}, id="any channels"),
    pytest.param((3, 32, 3), {"stride": 2, "padding": 1}, id="stem"),
    pytest.param((8, 48, 5), {"padding": 2, "groups": 4}, id="5 x 5"),
    pytest.param((8, 12, 3), {"stride": 3, "dilation": 2, "groups": 4, "bias": False}, id="dilated, stride 3"),
    pytest.param((16, 16, 1), {}, id="1 x 1"),
]


def randomized(*args: int, **arguments: int) -> DCNv4Conv2d:
    layer = DCNv4Conv2d(*args, **arguments)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.double()


def oracle(layer: DCNv4Conv2d, input: Tensor) -> Tensor:
    """The layer from convolutions and torchvision's operator, for odd kernels."""
    side = layer.kernel_size
    center = torch.zeros(layer.in_channels, 1, side, side, dtype=input.dtype)
    center[:, :, side // 2, side // 2] = 1
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    centers = F.conv2d(input, center, groups=layer.in_channels, **geometry)
    value = F.conv2d(input, layer.value_proj.weight[..., None, None], layer.value_proj.bias)
    offset_mask = F.conv2d(centers, layer.offset_mask.weight[..., None, None], layer.offset_mask.bias)
    case = Case(
        batch=len(input),
        size=tuple(input.shape[2:]),
        groups=layer.groups,
        group_channels=layer.out_channels // layer.groups,
        kernel_size=(side, side),
        stride=(layer.stride, layer.stride),
        padding=(layer.padding, layer.padding),
        dilation=(layer.dilation, layer.dilation),
        tail=offset_mask.shape[1] - 3 * side**2 * layer.groups,
    )
    sampled = dcnv4_oracle(case, value.movedim(1, -1), offset_mask.movedim(1, -1)).movedim(-1, 1)
    return F.conv2d(sampled, layer.output_proj.weight[..., None, None], layer.output_proj.bias)


@pytest.mark.parametrize(("args", "arguments"), ARGUMENTS)
def test_equals_torchvision(args: tuple[int, ...], arguments: dict):
    layer = randomized(*args, **arguments)
    input = torch.randn(2, args[0], 13, 10, dtype=torch.float64)
    assert_close(layer(input), oracle(layer, input))


@pytest.mark.parametrize(("args", "arguments"), [*ARGUMENTS, pytest.param((4, 6, 4), {"padding": 1, "stride": 2}, id="4 x 4")])
def test_has_the_output_size_of_a_convolution(args: tuple[int, ...], arguments: dict):
    convolution = nn.Conv2d(*args, **{key: value for key, value in arguments.items() if key != "groups"})
    input = torch.randn(1, args[0], 17, 12)
    assert DCNv4Conv2d(*args, **arguments)(input).shape == convolution(input).shape


def test_a_new_layer_averages_the_projected_input_over_the_regular_grid():
    layer = DCNv4Conv2d(6, 32, 3, stride=2, padding=1).double()
    input = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    averaged = F.avg_pool2d(F.conv2d(input, layer.value_proj.weight[..., None, None]), 3, stride=2, padding=1)
    assert_close(layer(input), F.conv2d(averaged, layer.output_proj.weight[..., None, None]))


def test_every_parameter_of_a_new_layer_learns():
    layer = DCNv4Conv2d(4, 8, 3, padding=1, groups=2)
    layer(torch.randn(1, 4, 6, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_groups_have_16_channels_where_that_divides():
    assert [DCNv4Conv2d(3, channels, 3).groups for channels in (16, 64, 24, 7)] == [1, 4, 1, 1]


def test_loads_the_weights_of_the_channels_last_layer():
    source = DCNv4(channels=32, group=2)
    nn.init.normal_(source.offset_mask.weight)
    layer = DCNv4Conv2d(32, 32, 3, padding=1)
    layer.load_state_dict(source.state_dict())
    input = torch.randn(1, 32, 6, 5)
    assert_close(layer(input), source(input.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    layer = randomized(8, 16, 3, padding=1).to(dtype)
    input = torch.randn(1, 8, 7, 9, dtype=dtype)
    exact = copy.deepcopy(layer).double()(input.double())
    # Three roundings to the dtype, of values about as large as the largest output.
    assert_close(layer(input).double(), exact, rtol=0, atol=3 * torch.finfo(dtype).eps * exact.abs().max().item())


def test_the_memory_format_does_not_matter():
    layer = randomized(8, 16, 3, padding=1)
    input = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    output = layer(input.contiguous(memory_format=torch.channels_last))
    assert_close(output, layer(input), rtol=0, atol=0)
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": (3, 3)}, r"DCNv4Conv2d: kernel_size must be an integer of at least 1, got \(3, 3\)"),
        ({"padding": "same"}, "DCNv4Conv2d: padding must be an integer of at least 0, got 'same'"),
        ({"groups": 3}, "DCNv4Conv2d: groups must divide out_channels, got 8 channels in 3 groups"),
    ],
)
def test_invalid_arguments(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        DCNv4Conv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **arguments})


def test_an_input_with_other_channels_is_refused():
    with pytest.raises(UserError, match=r"expected an input \(N, 4, H, W\), got shape \(1, 6, 6, 4\)"):
        DCNv4Conv2d(4, 8, 3)(torch.randn(1, 6, 6, 4))
