"""A neck that maps backbone stages to one number of channels, without a top-down path.

Source: Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes", arXiv:2203.03605, after Deformable DETR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.layers import Conv2d
from torch import Tensor, nn

from flash_internimage.errors import UserError


class ChannelMapper(nn.Module):
    """1x1 convolutions on backbone stages, and 3x3 convolutions of stride 2 for coarser levels; each with GroupNorm."""

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_levels: int = 4,
        norm_groups: int = 32,
    ) -> None:
        """
        Args:
            in_features: names of the backbone stages, from fine to coarse.
            in_channels: number of channels of each stage.
            out_channels: number of channels of every level.
            num_levels: number of levels to return. Each level beyond the stages halves the resolution: the first of them
                reads the last stage, the others read the previous level.
            norm_groups: number of groups of every GroupNorm.

        Raises:
            UserError: ``in_features`` and ``in_channels`` differ in length, or there are more stages than levels.
        """
        super().__init__()
        if len(in_features) != len(in_channels) or len(in_features) > num_levels:
            raise UserError(
                f"ChannelMapper: expected one number of channels per stage and at most {num_levels} stages (num_levels), "
                f"got in_features={list(in_features)} and in_channels={list(in_channels)}"
            )
        self.in_features = list(in_features)
        self.in_channels = list(in_channels)

        def conv(channels: int, kernel_size: int, stride: int) -> Conv2d:
            norm = nn.GroupNorm(norm_groups, out_channels)
            layer = Conv2d(channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False, norm=norm)
            nn.init.xavier_uniform_(layer.weight)
            return layer

        self.convs = nn.ModuleList(conv(channels, 1, 1) for channels in in_channels)
        extra = num_levels - len(self.convs)
        self.extra_convs = nn.ModuleList(conv(in_channels[-1] if i == 0 else out_channels, 3, 2) for i in range(extra))

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """{name: (N, C_in, H, W)} -> ``num_levels`` feature maps (N, out_channels, H, W), from fine to coarse."""
        stages = [features[name] for name in self.in_features]
        levels = [conv(stage) for conv, stage in zip(self.convs, stages, strict=True)]
        coarsest = stages[-1]
        for conv in self.extra_convs:
            coarsest = conv(coarsest)
            levels.append(coarsest)
        return levels
