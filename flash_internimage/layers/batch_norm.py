"""Batch normalization synchronized across processes, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flash_internimage.process_means import has_other_processes


class SyncBatchNorm(nn.BatchNorm2d):
    """``torch.nn.SyncBatchNorm`` that also supports CPU tensors, any backend and empty batches.

    torch's version rejects CPU tensors, and detectron2's layers reject torch's version if a process has an empty batch.
    With one process, or in evaluation mode, this is ``BatchNorm2d``. With several processes, the statistics are computed
    over the samples of all of them, each weighted equally. A process with an empty batch contributes no samples but still
    takes part in the communication.

    Args:
        num_features: number of channels C.
        eps, momentum: as in ``torch.nn.BatchNorm2d``.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return super().forward(input)
        if has_other_processes():
            return self._forward_synchronized(input)
        if input.numel() == 0:
            return _scale_and_shift(input, self.weight, self.bias)
        return super().forward(input)

    def _forward_synchronized(self, input: Tensor) -> Tensor:
        # Imported here because a torch built without torch.distributed lacks it. This all_reduce is differentiable.
        from torch.distributed.nn.functional import all_reduce

        dtype = torch.promote_types(input.dtype, torch.float32)
        values = input.to(dtype)
        count = values.new_tensor([values.numel() / self.num_features])
        sums = all_reduce(torch.cat([values.sum(dim=(0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total.clamp(min=1)
        centered = values - mean[:, None, None]
        # Two passes: E[x^2] - E[x]^2 would lose a small variance to cancellation.
        variance = all_reduce(centered.square().sum(dim=(0, 2, 3))) / total.clamp(min=1)
        self._track(mean.detach(), variance.detach(), total)
        normalized = centered * (variance + self.eps).rsqrt()[:, None, None]
        return _scale_and_shift(normalized, self.weight, self.bias).to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Update the running statistics; the running variance is unbiased, as in torch."""
        if total <= 1:
            return
        self.num_batches_tracked.add_(1)
        unbiased = variance * total / (total - 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


def _scale_and_shift(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return input * weight[:, None, None] + bias[:, None, None]
