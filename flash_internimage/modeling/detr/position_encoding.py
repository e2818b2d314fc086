"""Sine encodings of the positions in a feature map and of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sine_features(angles: Tensor, num_features: int, temperature: float) -> Tensor:
    """Alternating sines and cosines of ``angles`` at geometrically growing wavelengths.

    Args:
        angles: (...), in radians at the shortest wavelength.
        num_features: an even number of features.
        temperature: approximate ratio of the longest to the shortest wavelength.

    Returns:
        (..., num_features), with the dtype of ``angles``.
    """
    exponents = torch.arange(0, num_features, 2, dtype=angles.dtype, device=angles.device) / num_features
    scaled = angles[..., None] / temperature**exponents
    return torch.stack([scaled.sin(), scaled.cos()], dim=-1).flatten(-2)


def encode_boxes(boxes: Tensor, num_features: int, temperature: float = 10000.0) -> Tensor:
    """Sine encoding of boxes, from which a decoder computes the position embeddings of its queries.

    Args:
        boxes: (..., 4) as (cx, cy, w, h), relative to the (padded) image.
        num_features: number of features per coordinate.

    Returns:
        (..., 4 * num_features), in the order cy, cx, w, h: the published weights expect y before x.
    """
    cx, cy, width, height = sine_features(boxes * (2 * math.pi), num_features, temperature).unbind(-2)
    return torch.cat([cy, cx, width, height], dim=-1)


class SinePositionEncoding(nn.Module):
    """Encodes each position of a feature map relative to the image without padding, which spans one period.

    Source: Carion et al., "End-to-End Object Detection with Transformers", arXiv:2005.12872; temperature 20 from
    Liu et al., "DAB-DETR", arXiv:2201.12329.
    """

    def __init__(self, embed_dim: int = 256, temperature: float = 20.0, eps: float = 1e-6) -> None:
        """
        Args:
            embed_dim: number of features per position, half of them for each axis.
            eps: added to the size of the image in positions.
        """
        super().__init__()
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.eps = eps

    def forward(self, padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Encode the positions of one feature level.

        Args:
            padding_mask: (N, H, W) bool, true in the padding.
            dtype: dtype of the computation and the result.

        Returns:
            (N, embed_dim, H, W): the features of y, then those of x.
        """
        axes = []
        for axis in (1, 2):
            # In integers, because torch.use_deterministic_algorithms refuses cumsum of floats on a GPU.
            count = (~padding_mask).cumsum(dim=axis).to(dtype)
            last = count.narrow(axis, -1, 1)
            angles = count / (last + self.eps) * (2 * math.pi)
            axes.append(sine_features(angles, self.embed_dim // 2, self.temperature))
        return torch.cat(axes, dim=-1).permute(0, 3, 1, 2)
