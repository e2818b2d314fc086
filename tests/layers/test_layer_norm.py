import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_internimage.layers import LayerNorm2d


def test_normalizes_over_the_channels_at_each_position():
    norm = LayerNorm2d(5, eps=1e-5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert_close(norm(x), expected)


def test_uses_the_given_eps():
    # The variance is far below the larger eps, which then divides the deviations by sqrt(eps), and above the smaller one.
    x = torch.tensor([0.0, 2e-3]).view(1, 2, 1, 1)
    coarse, fine = LayerNorm2d(2, eps=1e-2)(x), LayerNorm2d(2, eps=1e-8)(x)
    assert_close(coarse.flatten(), torch.tensor([-1e-2, 1e-2]), atol=1e-5, rtol=0)
    assert_close(fine.flatten(), torch.tensor([-1.0, 1.0]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["channels first", "channels last"])
def test_output_is_channels_last_for_any_input_format(layout: torch.memory_format):
    x = torch.randn(2, 8, 3, 4).contiguous(memory_format=layout)
    assert LayerNorm2d(8)(x).is_contiguous(memory_format=torch.channels_last)


def test_gradient():
    norm = LayerNorm2d(3).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
