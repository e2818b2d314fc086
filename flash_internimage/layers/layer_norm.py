"""Layer normalization over the channels of an image-shaped tensor."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization of every cell of an (N, C, H, W) map over its C channels.

    Made for detectron2's ``norm=`` arguments, which are called with the number of channels:
    ``functools.partial(LayerNorm2d, eps=1e-5)``. (The ``"LN"`` of newer detectron2 computes the same from elementary
    operations, which costs several passes over the map, and detectron2 0.6 has none.)

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), laid out channels last; no copy is made when the input already is."""
        return layer_norm_2d(input, self.weight, self.bias, self.eps)


def layer_norm_2d(input: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise an (N, C, H, W) map over C; ``weight`` and ``bias`` are (C,)."""
    channels_last = input.permute(0, 2, 3, 1)
    return F.layer_norm(channels_last, weight.shape, weight, bias, eps).permute(0, 3, 1, 2)
