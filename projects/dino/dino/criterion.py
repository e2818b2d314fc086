"""The training losses of DINO: encoder selection, decoder layers and denoising queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flash_internimage.modeling.detr.denoising import DenoisingQueries
from flash_internimage.modeling.detr.losses import set_losses
from flash_internimage.modeling.detr.matcher import HungarianMatcher
from flash_internimage.modeling.detr.targets import Match, Target
from flash_internimage.process_means import mean_over_processes

from .transformer import TransformerOutput


class DINOCriterion(nn.Module):
    """Losses of the encoder's selection, of every decoder layer, and of the denoising queries of every layer."""

    def __init__(
        self,
        matcher: HungarianMatcher,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.weights = {"loss_cls": class_weight, "loss_bbox": l1_weight, "loss_iou": giou_weight}
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma

    def forward(self, output: TransformerOutput, denoising: DenoisingQueries, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            output: the predictions; those for ``denoising`` come first.
            targets: one per image.

        Returns:
            Weighted scalars: ``interm_loss_cls`` of the selection, ``loss_cls`` of the last layer, ``d0.loss_cls`` .. of
            the layers before it, ``dn_loss_cls`` and ``d0.dn_loss_cls`` .. of the denoising queries; likewise
            ``loss_bbox`` (L1) and ``loss_iou``.
        """
        num_queries = output.logits.shape[2] - denoising.count
        pairs = torch.stack(
            [
                output.boxes.new_tensor(sum(min(len(target.labels), num_queries) for target in targets)),
                output.boxes.new_tensor(sum(len(match.queries) for match in denoising.matches)),
            ]
        )
        # Reduce once for all layers: they match the same number of pairs, and each all_reduce is a synchronization.
        per_query, per_copy = mean_over_processes(pairs).clamp(min=1).unbind()

        selection = output.selection
        losses = self._matched("interm_", selection.logits, selection.boxes, targets, per_query)
        last = len(output.logits) - 1
        for layer, (logits, boxes) in enumerate(zip(output.logits, output.boxes, strict=True)):
            prefix = "" if layer == last else f"d{layer}."
            noisy_logits, logits = logits.split([denoising.count, num_queries], dim=1)
            noisy_boxes, boxes = boxes.split([denoising.count, num_queries], dim=1)
            losses |= self._matched(prefix, logits, boxes, targets, per_query)
            losses |= self._losses(f"{prefix}dn_", noisy_logits, noisy_boxes, targets, denoising.matches, per_copy)
        return losses

    def _matched(
        self, prefix: str, logits: Tensor, boxes: Tensor, targets: Sequence[Target], normalizer: Tensor
    ) -> dict[str, Tensor]:
        matches = self.matcher(logits, boxes, targets)
        return self._losses(prefix, logits, boxes, targets, matches, normalizer)

    def _losses(
        self,
        prefix: str,
        logits: Tensor,
        boxes: Tensor,
        targets: Sequence[Target],
        matches: Sequence[Match],
        normalizer: Tensor,
    ) -> dict[str, Tensor]:
        losses = set_losses(logits, boxes, targets, matches, normalizer, self.focal_alpha, self.focal_gamma)
        return {prefix + name: loss * self.weights[name] for name, loss in zip(self.weights, losses, strict=True)}
