"""Region heads of Cascade Mask R-CNN: three stages, each on the boxes that the one before has refined.

From Cai and Vasconcelos, "Cascade R-CNN", 2018. detectron2's ``CascadeROIHeads`` regresses boxes without regard to class,
keeps the same samples through all stages, averages probabilities, and has one mask head; the published models regress
for each class, sample anew at each stage, average logits, and have a mask head at each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.roi_heads import StandardROIHeads, select_foreground_proposals
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.matcher import IoUMatcher
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes

from .fast_rcnn import class_deltas
from .roi_heads import log_samples, sample_proposals


def refine_boxes(
    boxes: Tensor, deltas: Tensor, classes: Tensor, transform: BoxTransform, image_size: tuple[int, int]
) -> Tensor:
    """Move each box by its deltas of one class and clip it to the image; no gradient passes.

    Args:
        boxes: (R, 4) XYXY boxes.
        deltas: (R, K * 4).
        classes: (R,) int64, in 0..K-1.
        image_size: (height, width) in pixels, without padding.

    Returns:
        (R, 4) XYXY boxes.
    """
    return clip_boxes(transform.apply_deltas(class_deltas(deltas.detach(), classes), boxes), image_size)


def refinement_classes(logits: Tensor, gt_classes: Tensor | None = None) -> Tensor:
    """The class whose deltas refine each region: the true one where there is one, else the likeliest foreground class.

    Args:
        logits: (R, K + 1), background last.
        gt_classes: (R,), K for background; None at test.
    """
    likeliest = logits[:, :-1].argmax(dim=1)
    if gt_classes is None:
        return likeliest
    return torch.where(gt_classes == logits.shape[1] - 1, likeliest, gt_classes)


class CascadeRoIHeads(StandardROIHeads):
    """A cascade of box heads, each with a mask head.

    Args:
        num_classes: K, without the background.
        batch_size_per_image: proposals to train on, in each image and at each stage.
        positive_fraction: how much of them may be positive.
        proposal_matchers: for each stage, assigns targets to proposals.
        box_in_features: pyramid levels of the box heads.
        box_pooler: from the levels and boxes to region features.
        box_heads: for each stage, from region features to what its predictor takes.
        box_predictors: for each stage, classes and deltas of regions and their losses. The last one's thresholds select
            the detections.
        stage_loss_weights: factor on all losses of each stage.
        mask_in_features, mask_pooler: likewise for masks; None for a detector without masks.
        mask_heads: for each stage; at test the mean of their probabilities counts.
        size_divisibility: what images are padded to a multiple of; ground-truth masks are padded likewise.

    Raises:
        UserError: the lists differ in length.
    """

    def __init__(
        self,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        proposal_matchers: Sequence[IoUMatcher],
        box_in_features: Sequence[str],
        box_pooler: nn.Module,
        box_heads: Sequence[nn.Module],
        box_predictors: Sequence[nn.Module],
        stage_loss_weights: Sequence[float],
        mask_in_features: Sequence[str] | None = None,
        mask_pooler: nn.Module | None = None,
        mask_heads: Sequence[nn.Module] = (),
        size_divisibility: int = 32,
    ) -> None:
        lengths = {
            "proposal_matchers": len(proposal_matchers),
            "box_heads": len(box_heads),
            "box_predictors": len(box_predictors),
            "stage_loss_weights": len(stage_loss_weights),
        }
        if mask_in_features is not None:
            lengths["mask_heads"] = len(mask_heads)
        if len(set(lengths.values())) != 1:
            raise UserError(f"CascadeRoIHeads: each of these needs one entry a stage, got {lengths}")
        super().__init__(
            num_classes=num_classes,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            proposal_matcher=None,
            box_in_features=box_in_features,
            box_pooler=box_pooler,
            box_head=nn.ModuleList(box_heads),
            box_predictor=nn.ModuleList(box_predictors),
            mask_in_features=mask_in_features,
            mask_pooler=mask_pooler,
            mask_head=nn.ModuleList(mask_heads),
        )
        self.proposal_matchers = list(proposal_matchers)
        self.stage_loss_weights = [float(weight) for weight in stage_loss_weights]
        self.size_divisibility = size_divisibility

    @property
    def num_stages(self) -> int:
        return len(self.stage_loss_weights)

    def forward(
        self,
        images: object,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: unused; part of detectron2's interface.
            features: name -> (N, C, H, W).
            proposals: ``proposal_boxes`` of each image.
            targets: ``gt_boxes``, ``gt_classes`` and ``gt_masks`` of each image; training only.

        Returns:
            In training the samples of the last stage and the losses ``loss_cls_stage0``, ``loss_box_reg_stage0``,
            ``loss_mask_stage0``, ...; otherwise detections and no losses.
        """
        if not self.training:
            return self.forward_with_given_boxes(features, self._detect(features, proposals)), {}
        if targets is None:
            raise UserError("CascadeRoIHeads: training needs targets, got None")
        losses = {}
        boxes = [image.proposal_boxes.tensor for image in proposals]
        for stage in range(self.num_stages):
            sampled = self._sample(boxes, targets, stage)
            logits, deltas = self._run_stage(features, sampled, stage)
            with get_event_storage().name_scope(f"stage{stage}"):
                stage_losses = self.box_predictor[stage].losses((logits, deltas), sampled)
                stage_losses.update(self._mask_losses(features, sampled, stage))
            for name, loss in stage_losses.items():
                losses[f"{name}_stage{stage}"] = loss * self.stage_loss_weights[stage]
            if stage + 1 < self.num_stages:
                refined = self._refine(sampled, logits, deltas, stage)
                # The next stage adds the targets themselves, so their refined copies would be duplicates.
                boxes = [b[~image.is_target] for b, image in zip(refined, sampled, strict=True)]
        return sampled, losses

    @torch.no_grad()
    def _sample(self, boxes: list[Tensor], targets: list[Instances], stage: int) -> list[Instances]:
        """Assign targets to the boxes of each image and choose some to train a stage on."""
        sampled = [
            sample_proposals(
                image_boxes,
                image_targets,
                self.proposal_matchers[stage],
                self.num_classes,
                self.batch_size_per_image,
                self.positive_fraction,
                self.size_divisibility,
            )
            for image_boxes, image_targets in zip(boxes, targets, strict=True)
        ]
        log_samples(sampled, self.num_classes, f"stage{stage}/roi_head")
        return sampled

    def _run_stage(self, features: dict[str, Tensor], proposals: list[Instances], stage: int) -> tuple[Tensor, Tensor]:
        """(R, K + 1) logits and (R, K * 4) deltas of one stage for the ``proposal_boxes`` of all images."""
        levels = [features[name] for name in self.box_in_features]
        regions = self.box_pooler(levels, [image.proposal_boxes for image in proposals])
        return self.box_predictor[stage](self.box_head[stage](regions))

    @torch.no_grad()
    def _refine(self, proposals: list[Instances], logits: Tensor, deltas: Tensor, stage: int) -> list[Tensor]:
        """The boxes of each image for the next stage, in the order of the ``proposal_boxes``."""
        sizes = [len(image) for image in proposals]
        return [
            refine_boxes(
                image.proposal_boxes.tensor,
                image_deltas,
                refinement_classes(image_logits, image.gt_classes if self.training else None),
                self.box_predictor[stage].box2box_transform,
                image.image_size,
            )
            for image, image_logits, image_deltas in zip(proposals, logits.split(sizes), deltas.split(sizes), strict=True)
        ]

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Detections from the mean logits of all stages and the boxes of the last."""
        total: Any = 0
        for stage in range(self.num_stages):
            logits, deltas = self._run_stage(features, proposals, stage)
            total = total + logits
            if stage + 1 < self.num_stages:
                refined = self._refine(proposals, logits, deltas, stage)
                proposals = [
                    Instances(image.image_size, proposal_boxes=PreciseBoxes(boxes))
                    for image, boxes in zip(proposals, refined, strict=True)
                ]
        detections, _ = self.box_predictor[-1].inference((total / self.num_stages, deltas), proposals)
        return detections

    def _mask_losses(self, features: dict[str, Tensor], sampled: list[Instances], stage: int) -> dict[str, Tensor]:
        """The mask loss of one stage on its positive samples; empty without masks."""
        if not self.mask_on:
            return {}
        positives, _ = select_foreground_proposals(sampled, self.num_classes)
        levels = [features[name] for name in self.mask_in_features]
        regions = self.mask_pooler(levels, [image.proposal_boxes for image in positives])
        return self.mask_head[stage](regions, positives)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add ``pred_masks``, the mean probabilities (R, 1, H, W) of all mask heads, to detections."""
        if not self.mask_on:
            return instances
        levels = [features[name] for name in self.mask_in_features]
        regions = self.mask_pooler(levels, [image.pred_boxes for image in instances])
        total: Any = 0
        for head in self.mask_head:
            total = total + torch.cat([image.pred_masks for image in head(regions, instances)])
        for image, masks in zip(instances, (total / self.num_stages).split([len(i) for i in instances]), strict=True):
            image.pred_masks = masks
        return instances
