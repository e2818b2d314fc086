"""The mask head of Mask R-CNN, with its loss in the precision of the network.

The layers are detectron2's ``MaskRCNNConvUpsampleHead``, whose own loss casts its targets, and with them the result, to
float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor


def mask_loss(logits: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each region's mask for its own class, averaged over all cells.

    Args:
        logits: (R, K, S, S).
        classes: (R,) int64, in 0..K-1.
        targets: (R, S, S) boolean.

    Returns:
        A scalar; 0 without regions, but still a function of the logits.
    """
    rows = torch.arange(len(logits), device=logits.device)
    loss = F.binary_cross_entropy_with_logits(logits[rows, classes], targets.to(logits.dtype), reduction="sum")
    return loss / max(targets.numel(), 1)


class MaskHead(MaskRCNNConvUpsampleHead):
    """``MaskRCNNConvUpsampleHead`` with the loss above.

    Args:
        input_shape: of the region features.
        num_classes: K.
        conv_dims: channels of the 3 x 3 convolutions and, last, of the upsampling.
    """

    def __init__(self, input_shape: ShapeSpec, num_classes: int, conv_dims: Sequence[int]) -> None:
        super().__init__(input_shape, num_classes=num_classes, conv_dims=list(conv_dims))

    def forward(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor] | list[Instances]:
        """
        Args:
            x: (R, C, H, W) region features, image by image.
            instances: R regions; in training with ``proposal_boxes``, ``gt_classes`` and ``gt_masks``, otherwise with
                ``pred_classes``.

        Returns:
            ``loss_mask`` in training; otherwise the instances with ``pred_masks``, (R, 1, S, S) probabilities.
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
