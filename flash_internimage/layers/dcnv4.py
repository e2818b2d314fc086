"""DCNv4 layer: value, offset and output projections around the operator :func:`flash_internimage.ops.dcnv4`.

Source: Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
CVPR 2024 (https://arxiv.org/abs/2401.06197). Arguments and parameters have the names of OpenGVLab/DCNv4, so that published
weights load without renaming.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.ops.dcnv4 import dcnv4

from .linear import Linear


class DCNv4(nn.Module):
    """Deformable convolution that predicts its offsets and modulation scalars from its own input.

    The sampled values are a linear projection of the input. Offsets and modulation scalars are predicted from the input
    itself, optionally after a depth-wise convolution. All tensors are channels last, so nothing is transposed.

    Two arguments keep their published names: ``group`` is the operator's ``groups``, ``pad`` its ``padding``.

    Args:
        channels: input and output channels C.
        kernel_size: side length of the sampling grid, in points.
        stride: distance between windows, in pixels of the feature map.
        pad: zero padding on each side of the input, in pixels; ``padding`` of the operator.
        dilation: distance between points of the regular grid, in pixels.
        group: number of channel groups G; ``groups`` of the operator. Each group of C / G channels has its own offsets and
            modulation scalars.
        offset_scale: factor on the distance of the sampling points from the center of the window.
        dw_kernel_size: kernel size of the depth-wise convolution before the offset prediction; None to omit it.
        center_feature_scale: blend the output with the projected input by a learned gate per group.
        remove_center: omit the center point of the grid.
        output_bias: give the output projection a bias.
        without_pointwise: omit the value and the output projection.

    Raises:
        UserError: the arguments contradict each other.
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
            raise UserError(f"DCNv4: remove_center needs an odd kernel_size, got {kernel_size}: it has no center point")
        if dw_kernel_size is not None and dw_kernel_size % 2 == 0:
            raise UserError(f"DCNv4: dw_kernel_size must be odd to keep the size of the feature map, got {dw_kernel_size}")
        if center_feature_scale and (stride != 1 or 2 * pad != dilation * (kernel_size - 1)):
            raise UserError(
                "DCNv4: center_feature_scale blends input and output, which must have the same size, got "
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
        self.offset_mask = Linear(channels, offset_mask_channels(kernel_size, group, remove_center))
        if not without_pointwise:
            self.value_proj = Linear(channels, channels)
            self.output_proj = Linear(channels, channels, bias=output_bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(group))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as published: zero offsets and modulation scalars, Xavier-uniform projections with zero bias."""
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
        """Apply the layer to a feature map, or to a flattened feature map.

        Args:
            input: (N, H, W, C) feature map, or (N, H * W, C) sequence in row-major order together with ``shape``.
            shape: (H, W) of a sequence; None for a feature map.

        Returns:
            (N, Ho, Wo, C) for a feature map, (N, Ho * Wo, C) for a sequence.

        Raises:
            UserError: the shape of the input does not match the layer or ``shape``.
        """
        if shape is None:
            if input.dim() != 4 or input.shape[-1] != self.channels:
                raise UserError(
                    f"DCNv4: expected a feature map (N, H, W, {self.channels}), or a sequence (N, H * W, {self.channels}) "
                    f"together with shape=(H, W), got input of shape {tuple(input.shape)} and no shape argument"
                )
            return self._forward_feature_map(input)
        height, width = shape
        if input.dim() != 3 or input.shape[1:] != (height * width, self.channels):
            raise UserError(
                f"DCNv4: shape={(height, width)} needs a sequence (N, {height * width}, {self.channels}), "
                f"got input of shape {tuple(input.shape)}"
            )
        return self._forward_feature_map(input.unflatten(1, (height, width))).flatten(1, 2)

    def _forward_feature_map(self, input: Tensor) -> Tensor:
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
        """Features that offsets and modulation scalars are predicted from: (N, H, W, C) -> (N, Ho, Wo, C)."""
        features = input
        if self.dw_kernel_size is not None:
            # permute() makes views: a contiguous (N, H, W, C) tensor is an (N, C, H, W) one in channels-last format.
            features = self.offset_mask_dw(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return window_centers(features, self.kernel_size, self.stride, self.pad, self.dilation)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}, pad={self.pad}, "
            f"dilation={self.dilation}, group={self.group}, offset_scale={self.offset_scale}, "
            f"remove_center={self.remove_center}"
        )


def offset_mask_channels(kernel_size: int, group: int, remove_center: bool) -> int:
    """Channels of ``offset_mask``: x, y and a modulation scalar for each point of each group, padded to a multiple of 8.

    The published weights have the padding; the operator ignores it.
    """
    points = kernel_size * kernel_size - int(remove_center)
    return math.ceil(3 * points * group / 8) * 8


def window_centers(input: Tensor, kernel_size: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Gather the features at the window centers of a convolution: (N, H, W, C) -> (N, Ho, Wo, C).

    With "same" padding and stride 1 the input is returned as it is. Centers in the padding are zero.
    """
    reach = dilation * (kernel_size - 1)
    margin = padding - reach // 2
    # With odd reach (even kernel) a window extends one pixel further after its center than before it.
    excess = reach % 2
    if margin == 0 and excess == 0 and stride == 1:
        return input
    centers = F.pad(input, (0, 0, margin, margin, margin, margin))  # a negative margin crops
    height, width = (size - excess for size in centers.shape[1:3])
    return centers[:, :height:stride, :width:stride]
