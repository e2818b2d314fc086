"""Mask head of Mask R-CNN, with a loss in the precision of the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor


def mask_loss(logits: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Compute the binary cross-entropy of the masks of the ground-truth classes, averaged over all pixels.

    Args:
        logits: (R, K, S, S) logits per class.
        classes: (R,) int64 ground-truth classes, in 0..K-1.
        targets: (R, S, S) boolean masks.

    Returns:
        A scalar. Without regions it is 0 but still connected to the logits, so that they get gradients.
    """
    rows = torch.arange(len(logits), device=logits.device)
    loss = F.binary_cross_entropy_with_logits(logits[rows, classes], targets.to(logits.dtype), reduction="sum")
    return loss / max(targets.numel(), 1)


def class_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Mask probabilities of one class per region: (R, K, S, S) logits, or (R, 1, S, S) for all classes -> (R, S, S)."""
    rows = torch.arange(logits.shape[0], device=logits.device)
    return logits[rows, 0 if logits.shape[1] == 1 else classes].sigmoid()


class MaskHead(MaskRCNNConvUpsampleHead):
    """Extends detectron2's ``MaskRCNNConvUpsampleHead`` with the loss :func:`mask_loss`.

    detectron2's loss converts the targets, and hence the result, to float32; this one keeps the precision of the network.

    Args:
        input_shape: shape of the region features.
        num_classes: number of foreground classes K.
        conv_dims: output channels of the 3 x 3 convolutions, then of the upsampling (transposed convolution).
    """

    def __init__(self, input_shape: ShapeSpec, num_classes: int, conv_dims: Sequence[int]) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=list(conv_dims))

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """
        Args:
            x: (R, C, H, W) region features, in the order of the images and their regions.
            instances: R regions in total, with ``proposal_boxes``, ``gt_classes`` and ``gt_masks`` in training, otherwise
                with ``pred_classes``.

        Returns:
            ``loss_mask`` in training; otherwise the instances with ``pred_masks``: (R, 1, S, S) probabilities.
        """
        if not self.training:
            return super().forward(x, instances)
        logits = self.layers(x)
        # Images without objects have no gt_masks.
        regions = [image for image in instances if len(image) > 0]
        classes = torch.cat([logits.new_empty(0, dtype=torch.int64), *[image.gt_classes for image in regions]])
        size = logits.shape[-1]
        crops = [image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, size) for image in regions]
        targets = torch.cat([logits.new_empty(0, size, size, dtype=torch.bool), *crops])
        return {"loss_mask": mask_loss(logits, classes, targets)}
