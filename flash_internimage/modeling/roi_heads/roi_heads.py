"""RoI heads of Mask R-CNN, with MMDetection's sampling of the proposals to train on.

Source: He et al., "Mask R-CNN", 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from flash_internimage.modeling.matcher import POSITIVE, IoUMatcher
from flash_internimage.modeling.poolers import RoIPooler
from flash_internimage.modeling.sampling import sample_labels
from flash_internimage.structures import DetectionTensors
from flash_internimage.structures.boxes import PreciseBoxes
from flash_internimage.structures.masks import SharedMasks

from .mask_head import MaskHead, class_probabilities


def sample_proposals(
    proposals: Tensor,
    targets: Instances,
    matcher: IoUMatcher,
    num_classes: int,
    num: int,
    positive_fraction: float,
    size_divisibility: int,
) -> Instances:
    """Match the proposals of one image to its ground truth, and sample those to train on.

    The ground-truth boxes are added to the proposals, in front of them, as positives matched to themselves. This happens
    after the matching, so they do not compete with the proposals.

    Args:
        proposals: (R, 4) XYXY boxes.
        targets: ground truth with ``gt_boxes``, ``gt_classes`` and any other ``gt_*`` fields.
        matcher: matches proposals to ground-truth boxes.
        num_classes: number of foreground classes, which is also the class index of the background.
        num: maximum number of samples.
        positive_fraction: maximum fraction of ``num`` that are positives.
        size_divisibility: see :func:`~flash_internimage.structures.masks.crop_masks`.

    Returns:
        ``proposal_boxes``, ``gt_classes`` and ``is_target`` (true for an added ground-truth box): positives first, then
        negatives, each in the order of the proposals. If the image has ground truth, also ``gt_boxes``, ``gt_masks`` and
        the other fields of the matched ground truth, which are valid for positives only.
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
    """Log the mean number of positive and negative samples per image to detectron2's event storage."""
    positives = sum(int((image.gt_classes < num_classes).sum()) for image in sampled)
    total = sum(len(image) for image in sampled)
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/num_fg_samples", positives / len(sampled))
    storage.put_scalar(f"{prefix}/num_bg_samples", (total - positives) / len(sampled))


def with_masks(
    detections: DetectionTensors,
    features: dict[str, Tensor],
    in_features: Sequence[str],
    pooler: RoIPooler,
    heads: Sequence[MaskHead],
) -> DetectionTensors:
    """Add mask probabilities, averaged over the heads, to detections; for export.

    Args:
        detections: N * K boxes.
        features: name -> (N, C, H, W).
        in_features: names of the feature levels that masks are pooled from.
        pooler: pools region features from these levels.
        heads: predict masks.
    """
    regions = pooler.pool_batch([features[name] for name in in_features], detections.boxes)
    classes = detections.classes.flatten()
    total = torch.stack([class_probabilities(head.layers(regions), classes) for head in heads]).sum(dim=0)
    masks = (total / len(heads)).unflatten(0, detections.classes.shape)
    rows = torch.arange(masks.shape[1], device=masks.device)
    exists = rows < detections.counts[:, None]
    return detections._replace(masks=torch.where(exists[..., None, None], masks, 0))


class RoIHeads(StandardROIHeads):
    """Extends detectron2's ``StandardROIHeads`` with MMDetection's sampling of proposals.

    Both add the ground-truth boxes to the proposals. detectron2 does so before the matching, so that every ground-truth box
    is its own best match; MMDetection does so after it (see :func:`sample_proposals`).

    Args:
        num_classes: number of foreground classes K.
        batch_size_per_image: number of proposals per image to train on.
        positive_fraction: maximum fraction of positives among them.
        proposal_matcher: matches proposals to ground-truth boxes.
        box_in_features: names of the feature levels of the box head.
        box_pooler: pools region features from these levels.
        box_head: maps region features to the input of the predictor.
        box_predictor: predicts classes and deltas, and computes their losses and the detections.
        mask_in_features, mask_pooler, mask_head: the same for masks; None for a detector without masks.
        size_divisibility: divisor of the padded image sizes; ground-truth masks are padded like the images.
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
    def detect(
        self,
        features: dict[str, Tensor],
        proposals: Tensor,
        valid: Tensor,
        sizes: Tensor,
        max_detections: int | None = None,
    ) -> DetectionTensors:
        """Equivalent of :meth:`forward` in evaluation on a fixed number of proposals P per image, for export.

        Args:
            features: name -> (N, C, H, W).
            proposals: (N, P, 4) XYXY boxes.
            valid: (N, P) bool; other proposals are ignored.
            sizes: (N, 2) integers (height, width) of the images.
            max_detections: see :meth:`BoxPredictor.detect`.
        """
        regions = self.box_pooler.pool_batch([features[name] for name in self.box_in_features], proposals)
        predictions = self.box_predictor(self.box_head(regions))
        detections = self.box_predictor.detect(predictions, proposals, valid, sizes, max_detections)
        if not self.mask_on:
            return detections
        return with_masks(detections, features, self.mask_in_features, self.mask_pooler, [self.mask_head])

    @torch.no_grad()
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Apply :func:`sample_proposals` to each image."""
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
