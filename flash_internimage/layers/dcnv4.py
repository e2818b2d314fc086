"""Deformable convolution v4 as a layer: projections around :func:`flash_internimage.ops.dcnv4`.

Source: Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
CVPR 2024 (https://arxiv.org/abs/2401.06197). Arguments and parameter names are those of the published layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.ops import dcnv4


class DCNv4(nn.Module):
    """Deformable convolution whose offsets and modulation are predicted from its own input.

    The values are a projection of the input; offsets and modulation come from the input itself, through an optional
    depth-wise convolution. Tensors stay channels last throughout, so nothing is transposed.

    Args:
        channels: C, of the input and of the output.
        kernel_size: side of the sampling grid, in points.
        stride: distance between windows, in cells.
        pad: zeros around the input, in cells.
        dilation: distance between the points of the regular grid, in cells.
        group: number of groups G; each has offsets and modulation of its own for its C / G channels.
        offset_scale: factor on the positions of the points about the center of the window.
        dw_kernel_size: side of the depth-wise convolution before the offsets; None for none.
        center_feature_scale: mix the output with the values before sampling, by a learned gate for each group.
        remove_center: leave out the central point of the grid.
        output_bias: whether the output projection has a bias.
        without_pointwise: leave out both projections (of the values and of the output).

    Raises:
        UserError: arguments that contradict each other.
    """

    def __init__(
        self,
        channels: int = 64,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        output_bias: bool = True,
        without_pointwise: bool = False,
    ) -> None:
        super().__init__()
        if channels % group != 0:
            raise UserError(f"DCNv4: channels must be divisible by group, got {channels} channels in {group} groups")
        if remove_center and kernel_size % 2 == 0:
            raise UserError(f"DCNv4: remove_center needs an odd kernel_size, got {kernel_size}: it has no central point")
        if dw_kernel_size is not None and dw_kernel_size % 2 == 0:
            raise UserError(f"DCNv4: dw_kernel_size must be odd to keep the size of the map, got {dw_kernel_size}")
        if center_feature_scale and (stride != 1 or 2 * pad != dilation * (kernel_size - 1)):
            raise UserError(
                "DCNv4: center_feature_scale mixes input and output, so both need one size, got "
                f"kernel_size={kernel_size}, stride={stride}, pad={pad}, dilation={dilation}"
            )
        self.channels = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.pad = pad
        self.dilation = dilation
        self.group = group
        self.offset_scale = offset_scale
        self.dw_kernel_size = dw_kernel_size
        self.center_feature_scale = center_feature_scale
        self.remove_center = remove_center
        self.without_pointwise = without_pointwise

        if dw_kernel_size is not None:
            self.offset_mask_dw = nn.Conv2d(channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels)
        self.offset_mask = nn.Linear(channels, offset_mask_channels(kernel_size, group, remove_center))
        if not without_pointwise:
            self.value_proj = nn.Linear(channels, channels)
            self.output_proj = nn.Linear(channels, channels, bias=output_bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published: offsets and modulation start at zero, projections are Xavier-uniform without bias."""
        if self.dw_kernel_size is not None:
            self.offset_mask_dw.reset_parameters()
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        if not self.without_pointwise:
            for projection in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(projection.weight)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)
        if self.center_feature_scale:
            nn.init.zeros_(self.center_feature_scale_proj_weight)
            nn.init.zeros_(self.center_feature_scale_proj_bias)

    def forward(self, input: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """Apply the layer to a map, or to a sequence of its cells.

        Args:
            input: (N, H, W, C), or (N, H * W, C) with ``shape``.
            shape: (H, W) of a sequence; None for a map.

        Returns:
            (N, Ho, Wo, C) for a map, (N, Ho * Wo, C) for a sequence.

        Raises:
            UserError: the input's shape does not fit the layer or ``shape``.
        """
        if shape is None:
            if input.dim() != 4 or input.shape[-1] != self.channels:
                raise UserError(
                    f"DCNv4: expected a map (N, H, W, {self.channels}), or a sequence (N, H * W, {self.channels}) "
                    f"together with its shape=(H, W), got input of shape {tuple(input.shape)} and no shape"
                )
            return self._forward_map(input)
        height, width = shape
        if input.dim() != 3 or input.shape[1:] != (height * width, self.channels):
            raise UserError(
                f"DCNv4: shape={(height, width)} needs a sequence (N, {height * width}, {self.channels}), "
                f"got input of shape {tuple(input.shape)}"
            )
        return self._forward_map(input.unflatten(1, (height, width))).flatten(1, 2)

    def _forward_map(self, input: Tensor) -> Tensor:
        value = input if self.without_pointwise else self.value_proj(input)
        output = dcnv4(
            value,
            self.offset_mask(self._offset_features(input)),
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.pad,
            dilation=self.dilation,
            groups=self.group,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
        )
        if self.center_feature_scale:
            gate = F.linear(output, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias).sigmoid()
            output = torch.lerp(output, value, gate.repeat_interleave(self.channels // self.group, dim=-1))
        return output if self.without_pointwise else self.output_proj(output)

    def _offset_features(self, input: Tensor) -> Tensor:
        """What offsets and modulation are predicted from: (N, H, W, C) -> (N, Ho, Wo, C)."""
        features = input
        if self.dw_kernel_size is not None:
            # A view: (N, H, W, C) seen as (N, C, H, W) is what PyTorch calls the channels-last memory format.
            features = self.offset_mask_dw(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return window_centers(features, self.kernel_size, self.stride, self.pad, self.dilation)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, pad={self.pad}, "
            f"dilation={self.dilation}, group={self.group}, offset_scale={self.offset_scale}, "
            f"remove_center={self.remove_center}"
        )


def offset_mask_channels(kernel_size: int, group: int, remove_center: bool) -> int:
    """Channels that the offset branch predicts for each window: x, y and a factor for every point of every group.

    Published weights have the number rounded up to a multiple of eight; the operator ignores the rest.
    """
    points = kernel_size * kernel_size - int(remove_center)
    return math.ceil(3 * points * group / 8) * 8


def output_size(size: int, kernel_size: int, stride: int, padding: int, dilation: int) -> int:
    """Length of a convolution's output along one axis, in cells."""
    return (size + 2 * padding - dilation * (kernel_size - 1) - 1) // stride + 1


def window_centers(input: Tensor, kernel_size: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The cells at the centers of a convolution's windows: (N, H, W, C) -> (N, Ho, Wo, C).

    With "same" padding and stride 1 that is the input itself. Centers that lie in the padding are zero.
    """
    height, width = (output_size(size, kernel_size, stride, padding, dilation) for size in input.shape[1:3])
    margin = padding - (dilation * (kernel_size - 1)) // 2
    if margin == 0 and (height, width) == input.shape[1:3]:
        return input
    # A negative margin crops.
    centers = F.pad(input, (0, 0, margin, margin, margin, margin))
    return centers[:, ::stride, ::stride][:, :height, :width]
