"""Region heads of Mask R-CNN: which proposals they are trained on.

From He et al., "Mask R-CNN", 2017. The heads and the flow between them are detectron2's ``StandardROIHeads``; that one
also adds the ground-truth boxes to the proposals, but before it assigns, so that every box is its own best match.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from flash_internimage.modeling.matcher import POSITIVE, IoUMatcher
from flash_internimage.modeling.sampling import sample_labels
from flash_internimage.structures.boxes import PreciseBoxes
from flash_internimage.structures.masks import SharedMasks


def sample_proposals(
    proposals: Tensor,
    targets: Instances,
    matcher: IoUMatcher,
    num_classes: int,
    num: int,
    positive_fraction: float,
    size_divisibility: int,
) -> Instances:
    """Choose proposals of one image to train on, and give each its target.

    The targets are proposals too. They come first and belong to themselves, while the assignment of the others does not
    know about them.

    Args:
        proposals: (R, 4) XYXY boxes.
        targets: ``gt_boxes``, ``gt_classes`` and whatever else an object has.
        matcher: assigns targets to proposals.
        num_classes: the background's class.
        num: how many to choose at most.
        positive_fraction: how much of ``num`` the positives may fill.
        size_divisibility: see :func:`~flash_internimage.structures.masks.crop_masks`.

    Returns:
        ``proposal_boxes``, ``gt_classes`` and ``is_target`` (whether a proposal is a target's own box), positives first,
        each part in the order of the proposals. If there are targets, also the matched target's ``gt_boxes``,
        ``gt_masks`` and other fields, which mean nothing for the background.
    """
    device = proposals.device
    target_boxes = PreciseBoxes(targets.gt_boxes.tensor.to(proposals.dtype))
    num_targets = len(target_boxes)
    matches, labels = matcher(pairwise_iou(target_boxes, PreciseBoxes(proposals)))
    boxes = torch.cat([target_boxes.tensor, proposals])
    matches = torch.cat([torch.arange(num_targets, device=device), matches])
    labels = torch.cat([labels.new_full((num_targets,), POSITIVE), labels])

    positives, negatives = sample_labels(labels, num, positive_fraction)
    chosen = torch.cat([positives, negatives])
    matches = matches[chosen]
    classes = torch.full_like(chosen, num_classes)
    classes[: len(positives)] = targets.gt_classes[matches[: len(positives)]]
    sampled = Instances(
        targets.image_size,
        proposal_boxes=PreciseBoxes(boxes[chosen]),
        gt_classes=classes,
        is_target=chosen < num_targets,
    )
    if num_targets > 0:
        sampled.gt_boxes = target_boxes[matches]
        for name, value in targets.get_fields().items():
            if name == "gt_masks":
                sampled.gt_masks = SharedMasks(value, matches, size_divisibility)
            elif name.startswith("gt_") and not sampled.has(name):
                sampled.set(name, value[matches])
    return sampled


def log_samples(sampled: list[Instances], num_classes: int, prefix: str = "roi_head") -> None:
    """Put the mean numbers of positive and negative samples an image into detectron2's event storage."""
    positives = sum(int((image.gt_classes < num_classes).sum()) for image in sampled)
    total = sum(len(image) for image in sampled)
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/num_fg_samples", positives / len(sampled))
    storage.put_scalar(f"{prefix}/num_bg_samples", (total - positives) / len(sampled))


class RoIHeads(StandardROIHeads):
    """``StandardROIHeads`` that samples proposals as the published models do.

    Args:
        num_classes: K, without the background.
        batch_size_per_image: proposals to train on, in each image.
        positive_fraction: how much of them may be positive.
        proposal_matcher: assigns targets to proposals.
        box_in_features: pyramid levels of the box head.
        box_pooler: from the levels and boxes to region features.
        box_head: from region features to what the predictor takes.
        box_predictor: classes and deltas of regions, their losses, and detections.
        mask_in_features, mask_pooler, mask_head: likewise for masks; None for a detector without masks.
        size_divisibility: what images are padded to a multiple of; ground-truth masks are padded likewise.
    """

    def __init__(
        self,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matcher: IoUMatcher,
        box_in_features: Sequence[str],
        box_pooler: nn.Module,
        box_head: nn.Module,
        box_predictor: nn.Module,
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        size_divisibility: int = 32,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            proposal_matcher=proposal_matcher,
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=box_head,
            box_predictor=box_predictor,
            mask_in_features=mask_in_features,
            mask_pooler=mask_pooler,
            mask_head=mask_head,
        )
        self.size_divisibility = size_divisibility

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """See :func:`sample_proposals`; for each image."""
        sampled = [
            sample_proposals(
                image_proposals.proposal_boxes.tensor,
                image_targets,
                self.proposal_matcher,
                self.num_classes,
                self.batch_size_per_image,
                self.positive_fraction,
                self.size_divisibility,
            )
            for image_proposals, image_targets in zip(proposals, targets, strict=True)
        ]
        log_samples(sampled, self.num_classes)
        return sampled
