"""Layer normalization over the channels of (N, C, H, W) feature maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from . import opaque


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last dimension, whose kernel is PyTorch's also in compiled inference on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if not opaque.is_compiled_inference(input, self.weight, self.bias):
            return super().forward(input)
        return opaque.layer_norm(input, self.weight, self.bias, self.eps)


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels at each position of an (N, C, H, W) feature map.

    Suits detectron2's ``norm=`` arguments, which are called with the number of channels:
    ``functools.partial(LayerNorm2d, eps=1e-5)``. detectron2 0.6 has no such layer. ``"LN"`` of newer versions computes the
    same from elementary operations, which takes several passes over the feature map.

    Args:
        channels: number of channels C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W) in channels-last memory format; an input in that format is not copied."""
        return layer_norm_2d(input, self.weight, self.bias, self.eps)


def layer_norm_2d(input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize an (N, C, H, W) feature map over C; ``weight`` and ``bias`` are (C,)."""
    channels_last = input.permute(0, 2, 3, 1)
    return F.layer_norm(channels_last, weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
