"""Weights cast once give the results of autocast, and norms keep their precision."""

import torch
from torch import nn

from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.layers import DCNv4, cast_weights


class ConvolutionWithNorm(nn.Conv2d):
    """Like detectron2's ``Conv2d``."""

    def __init__(self) -> None:
        super().__init__(16, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(x))


def test_linear_layers_and_convolutions_are_cast_and_norms_are_not():
    model = nn.Sequential(ConvolutionWithNorm(), nn.ConvTranspose2d(8, 8, 2), nn.Linear(8, 8), nn.LayerNorm(8))
    assert cast_weights(model, torch.bfloat16) is model
    low = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.bfloat16}
    assert low == {f"{layer}.{kind}" for layer in (0, 1, 2) for kind in ("weight", "bias")}


def test_results_under_autocast_stay_the_same():
    net = FlashInternImageBase(channels=16, depths=(1, 1, 2, 1), groups=(1, 2, 4, 8)).eval()
    for module in net.modules():
        if isinstance(module, DCNv4):
            nn.init.normal_(module.offset_mask.weight, std=0.1)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = net(image)
        features = cast_weights(net, torch.bfloat16)(image)
    for name, feature in features.items():
        # The bias may be added before or after the product is rounded: a few units in the last place.
        error = (feature.float() - expected[name].float()).norm() / expected[name].float().norm()
        assert error < 2 * torch.finfo(torch.bfloat16).eps
