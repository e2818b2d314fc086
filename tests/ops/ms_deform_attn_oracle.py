"""Oracle of multi-scale deformable attention: the same operation through `torch.nn.functional.grid_sample`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_oracle(
    value: Tensor, spatial_shapes: list[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute the attention with grid_sample; arguments as in `flash_internimage.ops.ms_deform_attn`.

    grid_sample leaves non-finite locations undefined, and at exactly -1, H or W its gradient differs; points that violate
    -1 < y < H, -1 < x < W are therefore replaced and given weight 0 first.
    """
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    output = value.new_zeros(batch * heads, channels, queries)
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        tokens = value[:, start : start + height * width]
        start += height * width
        feature_map = tokens.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)

        locations = sampling_locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        pixels = locations.detach() * locations.new_tensor([width, height]) - 0.5
        inside = ((pixels > -1) & (pixels < pixels.new_tensor([width, height]))).all(dim=-1)
        locations = torch.where(inside[..., None], locations, 0.5)

        weights = attention_weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points)
        samples = F.grid_sample(feature_map, 2 * locations - 1, mode="bilinear", padding_mode="zeros", align_corners=False)
        output = output + (samples * torch.where(inside, weights, 0.0)[:, None]).sum(dim=-1)
    assert start == value.shape[1]
    return output.reshape(batch, heads * channels, queries).transpose(1, 2)
