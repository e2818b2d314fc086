"""The operators' multiply-adds against numbers worked out by hand."""

import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from flash_internimage.ops import dcnv4, ms_deform_attn
from flash_internimage.ops.flops import FLOP_HANDLES


class Call(nn.Module):
    """A function as the module that fvcore traces."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def counted(function, *tensors) -> int:
    return FlopCountAnalysis(Call(function), tensors).set_op_handle(**FLOP_HANDLES).total()


def test_dcnv4():
    # 5 x 7 cells, stride 2 and padding 1: 3 x 4 outputs; 6 channels; 9 points, or 8 without the centre; 4 corners
    value, offset_mask = torch.randn(1, 5, 7, 6), torch.randn(1, 3, 4, 56)
    assert counted(lambda v, o: dcnv4(v, o, 3, stride=2, padding=1, groups=2), value, offset_mask) == 3 * 4 * 6 * 9 * 4
    without_centre = counted(lambda v, o: dcnv4(v, o, 3, stride=2, padding=1, groups=2, remove_center=True), value, offset_mask)
    assert without_centre == 3 * 4 * 6 * 8 * 4


def test_ms_deform_attn():
    # 10 queries; 2 heads of 3 channels; 2 levels of 4 points; 4 corners
    shapes = [(4, 5), (2, 3)]
    value = torch.randn(1, 26, 2, 3)
    locations, weights = torch.rand(1, 10, 2, 2, 4, 2), torch.rand(1, 10, 2, 2, 4)
    assert counted(lambda v, p, w: ms_deform_attn(v, shapes, p, w), value, locations, weights) == 10 * 6 * 8 * 4
