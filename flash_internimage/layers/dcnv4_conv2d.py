"""DCNv4 with the interface of ``nn.Conv2d``, for networks that work on (N, C, H, W) feature maps.

Source of the operator: Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision
Applications", CVPR 2024 (https://arxiv.org/abs/2401.06197).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.ops.dcnv4 import dcnv4

from .dcnv4 import offset_mask_channels, window_centers
from .linear import Linear

CHANNELS_PER_GROUP = 16
"""Channels per group in all published models."""


class DCNv4Conv2d(nn.Module):
    """Deformable replacement for ``nn.Conv2d``: (N, C_in, H, W) -> (N, C_out, H_out, W_out).

    The output has the size that ``nn.Conv2d`` would compute with the same arguments. Inside are the parts of
    :class:`~flash_internimage.layers.DCNv4`, with its parameter names: a projection of the input, sampled at predicted
    offsets with predicted modulation scalars, and a projection of the sampled features.

    A new layer samples the regular grid and averages it. :class:`~flash_internimage.layers.DCNv4` starts with modulation
    scalars of zero instead, which suits residual blocks only: without a shortcut, the output would be constant.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side length of the sampling grid, in points.
        stride: distance between windows, in pixels.
        padding: zero padding on each side of the input, in pixels.
        dilation: distance between points of the regular grid, in pixels.
        groups: number of groups of output channels, each with its own offsets and modulation scalars. All input channels
            contribute to each group, unlike in a grouped ``nn.Conv2d``. None for groups of 16 channels, as in the published
            models, or a single group if ``out_channels`` is not a multiple of 16.
        bias: give the output projection a bias.

    Raises:
        UserError: an argument is not a positive integer (``padding``: negative), or groups does not divide out_channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if groups is None:
            groups = out_channels // CHANNELS_PER_GROUP if out_channels % CHANNELS_PER_GROUP == 0 else 1
        _check_integers(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        _check_integers(minimum=0, padding=padding)
        if out_channels % groups != 0:
            raise UserError(f"DCNv4Conv2d: groups must divide out_channels, got {out_channels} channels in {groups} groups")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

        self.offset_mask = Linear(in_channels, offset_mask_channels(kernel_size, groups, remove_center=False))
        self.value_proj = Linear(in_channels, out_channels)
        self.output_proj = Linear(out_channels, out_channels, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the projections Xavier-uniformly with zero bias, offsets to zero, modulation scalars to 1 / K."""
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        points = self.kernel_size**2
        with torch.no_grad():
            per_group = self.offset_mask.bias[: 3 * points * self.groups].view(self.groups, 3 * points)
            per_group[:, 2 * points :] = 1 / points

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: (N, C_in, H, W) in any memory format; channels-last needs no copy.

        Returns:
            (N, C_out, H_out, W_out) in channels-last memory format.

        Raises:
            UserError: the input has another number of dimensions or channels.
            ValueError: the dilated kernel is larger than the padded input.
        """
        if input.dim() != 4 or input.shape[1] != self.in_channels:
            raise UserError(f"DCNv4Conv2d: expected an input (N, {self.in_channels}, H, W), got shape {tuple(input.shape)}")
        x = input.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        centers = window_centers(x, self.kernel_size, self.stride, self.padding, self.dilation)
        sampled = dcnv4(
            self.value_proj(x),
            self.offset_mask(centers),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return self.output_proj(sampled).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        )


def _check_integers(minimum: int = 1, **arguments: int) -> None:
    for name, value in arguments.items():
        if not isinstance(value, int) or value < minimum:
            raise UserError(f"DCNv4Conv2d: {name} must be an integer of at least {minimum}, got {value!r}")
