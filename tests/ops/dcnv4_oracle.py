"""Oracle of DCNv4: the same operation through `torchvision.ops.deform_conv2d`, and random inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from flash_internimage.ops import dcnv4


@dataclass(frozen=True)
class Case:
    """Sizes and arguments of a DCNv4 call; pairs are (height, width).

    Attributes:
        size: height and width of value.
        tail: unused channels at the end of offset_mask.
    """

    batch: int = 1
    size: tuple[int, int] = (5, 6)
    groups: int = 2
    group_channels: int = 4
    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    offset_scale: float = 1.0
    remove_center: bool = False
    tail: int = 2

    @property
    def points(self) -> int:
        """Sampling points per group."""
        return self.kernel_size[0] * self.kernel_size[1] - int(self.remove_center)

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the output, by the formula of any convolution."""
        height, width = (
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                self.size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width

    @property
    def settings(self) -> dict:
        """Arguments of dcnv4 other than the tensors, in order."""
        names = ["kernel_size", "stride", "padding", "dilation", "groups", "offset_scale", "remove_center"]
        return {name: getattr(self, name) for name in names}

    def draw(self, spread: float = 1.0, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Random value and offset_mask. Offsets have a standard deviation of `spread` pixels; the tail is NaN."""
        generator = torch.Generator().manual_seed(seed)
        value = torch.randn(self.batch, *self.size, self.groups * self.group_channels, generator=generator, dtype=torch.float64)
        points = torch.randn(
            self.batch, *self.output_size, self.groups, 3, self.points, generator=generator, dtype=torch.float64
        )
        points[..., :2, :] *= spread
        tail = torch.full((self.batch, *self.output_size, self.tail), float("nan"), dtype=torch.float64)
        return value.to(dtype), torch.cat([points.flatten(3), tail], dim=-1).to(dtype)

    def __call__(self, value: Tensor, offset_mask: Tensor) -> Tensor:
        """The operator under test."""
        return dcnv4(value, offset_mask, **self.settings)

    def split(self, offset_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Views of the offsets, (N, Ho, Wo, G, K, 2) as (x, y), and of the modulation scalars, (N, Ho, Wo, G, K)."""
        used = offset_mask[..., : 3 * self.points * self.groups].unflatten(3, (self.groups, 3 * self.points))
        return used[..., : 2 * self.points].unflatten(4, (self.points, 2)), used[..., 2 * self.points :]


def dcnv4_oracle(case: Case, value: Tensor, offset_mask: Tensor) -> Tensor:
    """Compute DCNv4 as a modulated deformable convolution with a depth-wise weight of ones.

    deform_conv2d numbers the points row by row, takes offsets as (y, x) relative to the unscaled window, and cannot remove
    the center point. It leaves non-finite locations undefined, and at exactly -1, H or W its gradient differs; points that
    violate -1 < y < H, -1 < x < W are therefore moved far outside first.
    """
    offsets, modulations = case.split(offset_mask)
    rows, columns = case.kernel_size
    if case.remove_center:
        # Insert a center point with modulation 0.
        middle = rows * columns // 2
        offsets = torch.cat([offsets[..., :middle, :], torch.zeros_like(offsets[..., :1, :]), offsets[..., middle:, :]], -2)
        modulations = torch.cat(
            [modulations[..., :middle], torch.zeros_like(modulations[..., :1]), modulations[..., middle:]], -1
        )
    grid_y, grid_x = torch.meshgrid(
        torch.arange(rows, dtype=value.dtype) * case.dilation[0],
        torch.arange(columns, dtype=value.dtype) * case.dilation[1],
        indexing="ij",
    )
    grid = torch.stack([grid_x.T.flatten(), grid_y.T.flatten()], -1)  # column by column, as in DCNv4
    center = torch.tensor([case.dilation[1] * (columns - 1) // 2, case.dilation[0] * (rows - 1) // 2], dtype=value.dtype)
    relative = center + (grid - center + offsets) * case.offset_scale - grid

    starts = [torch.arange(size, dtype=value.dtype) for size in case.output_size]
    starts = [out * stride - padding for out, stride, padding in zip(starts, case.stride, case.padding, strict=True)]
    start_y, start_x = torch.meshgrid(*starts, indexing="ij")
    position = torch.stack([start_x, start_y], -1)[:, :, None, None] + grid + relative
    inside = (position > -1) & (position < torch.tensor(case.size).flip(0))
    relative = torch.where(inside.all(-1, keepdim=True), relative, 1e6)

    def by_rows(points: Tensor) -> Tensor:
        return points.unflatten(4, (columns, rows)).transpose(4, 5).flatten(4, 5)

    return deform_conv2d(
        value.permute(0, 3, 1, 2),
        by_rows(relative).flip(-1).flatten(3).permute(0, 3, 1, 2),
        torch.ones(value.shape[3], 1, rows, columns, dtype=value.dtype),
        stride=case.stride,
        padding=case.padding,
        dilation=case.dilation,
        mask=by_rows(modulations[..., None]).flatten(3).permute(0, 3, 1, 2),
    ).permute(0, 2, 3, 1)


def value_and_gradients(function, value: Tensor, offset_mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the output of `function` and the gradients of sum(output * weight) for both inputs; weight defaults to random."""
    value = value.detach().requires_grad_()
    offset_mask = offset_mask.detach().requires_grad_()
    output = function(value, offset_mask)
    if weight is None:
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, (value, offset_mask), weight)
