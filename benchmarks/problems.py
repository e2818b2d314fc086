"""Inputs of the benchmarks of both operators, and multi-scale deformable attention in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

Levels = tuple[tuple[int, int], ...]
HEADS, HEAD_CHANNELS, LEVEL_POINTS = 8, 32, 4


def on_grid(pixels: Tensor) -> Tensor:
    """Round coordinates or offsets in pixels to odd multiples of 1/32.

    Results of implementations that round differently are comparable there: no point is on the border between two pixels,
    where gradients jump. Below 8 pixels the numbers have eight significant bits, and are exact in every dtype.
    """
    return ((pixels * 16).floor() + 0.5) / 16


def levels(height: int, width: int) -> Levels:
    """(height, width) of the four feature maps of DINO, with strides 8 to 64, for an image padded to a multiple of 32."""
    maps = [(height // stride, width // stride) for stride in (8, 16, 32)]
    return (*maps, tuple(-(-size // 2) for size in maps[-1]))


def pixel_centers(shapes: Levels) -> Tensor:
    """Centers (x, y) of all pixels of all levels, in 0..1: the reference points of DINO's encoder."""
    centers = []
    for height, width in shapes:
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        centers.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(centers)


def draw(shapes: Levels, reference_points: Tensor, batch: int = 1) -> list[Tensor]:
    """Draw value, locations and weights; locations are drawn from N(0, 2) pixels around the reference points (Q, 2)."""
    queries = len(reference_points)
    value = torch.randn(batch, sum(height * width for height, width in shapes), HEADS, HEAD_CHANNELS)
    sizes = torch.tensor([[width, height] for height, width in shapes])
    spread = 2 * torch.randn(batch, queries, HEADS, len(shapes), LEVEL_POINTS, 2)
    pixels = on_grid(reference_points[None, :, None, None, None] * sizes[:, None] - 0.5 + spread)
    locations = (pixels + 0.5) / sizes[:, None]
    weights = torch.rand(batch, queries, HEADS, len(shapes), LEVEL_POINTS)
    return [value, locations, weights / weights.sum(dim=(-1, -2), keepdim=True)]


def by_grid_sample(shapes: Levels, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute the attention with one grid_sample per level, heads folded into the batch, as in Deformable DETR."""
    batch, queries = locations.shape[:2]
    samples = []
    for level, tokens in enumerate(value.split([height * width for height, width in shapes], dim=1)):
        maps = tokens.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, shapes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        samples.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    folded = weights.transpose(1, 2).reshape(batch * HEADS, 1, queries, -1)
    output = (torch.stack(samples, dim=-2).flatten(-2) * folded).sum(dim=-1)
    return output.unflatten(0, (batch, HEADS)).flatten(1, 2).transpose(1, 2)
