"""FLOP counts of the operators and layers, against counts by hand."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flash_internimage.layers import DCNv4, MSDeformAttn
from flash_internimage.ops import dcnv4, ms_deform_attn
from flash_internimage.ops.flops import FLOP_HANDLES


class Call(nn.Module):
    """Wraps a function as a module, which fvcore's counter requires."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def count_flops(function, *tensors) -> int:
    fvcore = pytest.importorskip("fvcore.nn", reason="needs fvcore")
    return fvcore.FlopCountAnalysis(Call(function), tensors).set_op_handle(**FLOP_HANDLES).total()


def count_torch_flops(function, *tensors) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*tensors)
    return counter.get_total_flops()


def test_dcnv4():
    # 5 x 7 input, stride 2 and padding 1: 3 x 4 output positions; 6 channels; 9 points, or 8 without the center; 4 corners
    value, offset_mask = torch.randn(1, 5, 7, 6), torch.randn(1, 3, 4, 56)
    assert count_flops(lambda v, o: dcnv4(v, o, 3, stride=2, padding=1, groups=2), value, offset_mask) == 3 * 4 * 6 * 9 * 4
    without_center = count_flops(
        lambda v, o: dcnv4(v, o, 3, stride=2, padding=1, groups=2, remove_center=True), value, offset_mask
    )
    assert without_center == 3 * 4 * 6 * 8 * 4


def test_ms_deform_attn():
    # 10 queries; 2 heads of 3 channels; 2 levels of 4 points; 4 corners
    shapes = [(4, 5), (2, 3)]
    value = torch.randn(1, 26, 2, 3)
    locations, weights = torch.rand(1, 10, 2, 2, 4, 2), torch.rand(1, 10, 2, 2, 4)
    assert count_flops(lambda v, p, w: ms_deform_attn(v, shapes, p, w), value, locations, weights) == 10 * 6 * 8 * 4


def test_dcnv4_layer():
    # 5 x 7 positions of 32 channels; offset_mask of 2 groups of 9 points has 54 channels, rounded up to 56
    layer = DCNv4(channels=32, group=2)
    assert count_flops(layer, torch.randn(1, 5, 7, 32)) == 5 * 7 * (32 * 32 + 32 * 56 + 32 * 9 * 4 + 32 * 32)


def test_ms_deform_attn_layer():
    # 26 values and 10 queries of 8 channels; 2 heads x 2 levels x 3 points, with 2 offsets and 1 weight each
    layer = MSDeformAttn(embed_dim=8, num_heads=2, num_levels=2, num_points=3).requires_grad_(False)
    query, value, boxes = torch.randn(1, 10, 8), torch.randn(1, 26, 8), torch.rand(1, 10, 2, 4)
    dense = 26 * 8 * 8 + 10 * 8 * 24 + 10 * 8 * 12 + 10 * 8 * 8
    sampled = 10 * 8 * (2 * 3) * 4
    assert count_flops(lambda q, v, b: layer(q, v, b, [(4, 5), (2, 3)]), query, value, boxes) == dense + sampled


# PyTorch counts a multiply-add as two FLOPs, fvcore as one.


def test_pytorch_counts_twice_the_multiply_adds_of_fvcore():
    convolution = DCNv4(channels=32, group=2).requires_grad_(False)
    image = torch.randn(2, 5, 7, 32)
    assert count_torch_flops(convolution, image) == 2 * count_flops(convolution, image)
    attention = MSDeformAttn(embed_dim=8, num_heads=2, num_levels=2, num_points=3).requires_grad_(False)
    inputs = torch.randn(1, 10, 8), torch.randn(1, 26, 8), torch.rand(1, 10, 2, 4)

    def attend(query, value, boxes):
        return attention(query, value, boxes, [(4, 5), (2, 3)])

    assert count_torch_flops(attend, *inputs) == 2 * count_flops(attend, *inputs)


@pytest.mark.parametrize(("needed", "passes"), [((0,), 1), ((1,), 1), ((0, 1), 2)], ids=["value", "points", "both"])
def test_pytorch_counts_the_backward_of_dcnv4(needed, passes):
    inputs = torch.randn(1, 5, 7, 6), torch.randn(1, 3, 4, 56)
    for number in needed:
        inputs[number].requires_grad_()
    flops = count_torch_flops(lambda v, o: dcnv4(v, o, 3, 2, 1, groups=2, remove_center=True).sum().backward(), *inputs)
    assert flops == 2 * (1 + passes) * 3 * 4 * 6 * 8 * 4


@pytest.mark.parametrize(
    ("needed", "passes"),
    [((0,), 1), ((1,), 1), ((2,), 1), ((1, 2), 1), ((0, 1, 2), 2)],
    ids=["value", "locations", "weights", "locations and weights", "all"],
)
def test_pytorch_counts_the_backward_of_ms_deform_attn(needed, passes):
    inputs = torch.randn(1, 26, 2, 3), torch.rand(1, 10, 2, 2, 4, 2), torch.rand(1, 10, 2, 2, 4)
    for number in needed:
        inputs[number].requires_grad_()
    flops = count_torch_flops(lambda v, p, w: ms_deform_attn(v, [(4, 5), (2, 3)], p, w).sum().backward(), *inputs)
    assert flops == 2 * (1 + passes) * 10 * 6 * 8 * 4
