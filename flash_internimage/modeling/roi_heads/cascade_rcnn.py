"""RoI heads of Cascade Mask R-CNN: a sequence of stages, each of which refines the boxes of the previous one.

Source: Cai and Vasconcelos, "Cascade R-CNN", 2018.
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
from flash_internimage.structures import DetectionTensors
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes

from .fast_rcnn import class_deltas, in_precision_of
from .roi_heads import log_samples, sample_proposals, with_masks


def refine_boxes(
    boxes: Tensor, deltas: Tensor, classes: Tensor, transform: BoxTransform, image_size: tuple[int, int] | Tensor
) -> Tensor:
    """Apply to each box its deltas for one class and clip it to the image, without gradients.

    Args:
        boxes: (R, 4) XYXY boxes.
        deltas: (R, K * 4) deltas per class.
        classes: (R,) int64 class of each box, in 0..K-1.
        transform: decodes the deltas.
        image_size: (height, width) in pixels, without padding.

    Returns:
        (R, 4) XYXY boxes.
    """
    return clip_boxes(transform.apply_deltas(class_deltas(deltas.detach(), classes), boxes), image_size)


def refinement_classes(logits: Tensor, gt_classes: Tensor | None = None) -> Tensor:
    """Class whose deltas refine each region: the ground-truth class, or for background the top-scoring foreground class.

    Args:
        logits: (R, K + 1) logits, background last.
        gt_classes: (R,) ground-truth classes, K for background; None at test time, for the top-scoring class everywhere.
    """
    predicted = logits[:, :-1].argmax(dim=1)
    if gt_classes is None:
        return predicted
    return torch.where(gt_classes == logits.shape[1] - 1, predicted, gt_classes)


class CascadeRoIHeads(StandardROIHeads):
    """Box heads in a cascade, with one mask head per stage.

    Extends detectron2's ``StandardROIHeads`` and replaces its ``CascadeROIHeads``. The differences, all of them as in
    MMDetection with the published configs:

    - boxes are regressed per class instead of class-agnostically;
    - proposals are sampled at every stage instead of once before the first one;
    - the logits of the stages are averaged instead of their probabilities;
    - each stage has its own mask head.

    Args:
        num_classes: number of foreground classes K.
        batch_size_per_image: number of proposals per image to train each stage on.
        positive_fraction: maximum fraction of positives among them.
        proposal_matchers: for each stage, matches proposals to ground-truth boxes.
        box_in_features: names of the feature levels of the box heads.
        box_pooler: pools region features from these levels.
        box_heads: for each stage, maps region features to the input of its predictor.
        box_predictors: for each stage, predicts classes and deltas and computes their losses. The thresholds of the last
            one select the detections.
        stage_loss_weights: factor on all losses of each stage.
        mask_in_features, mask_pooler: the same for masks; None for a detector without masks.
        mask_heads: for each stage, predicts masks; at test time their probabilities are averaged.
        size_divisibility: divisor of the padded image sizes; ground-truth masks are padded like the images.

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
            raise UserError(f"CascadeRoIHeads: each of these arguments needs one entry per stage, got {lengths}")
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
            images: unused, but part of detectron2's interface.
            features: name -> (N, C, H, W).
            proposals: ``proposal_boxes`` of each image.
            targets: ``gt_boxes``, ``gt_classes`` and ``gt_masks`` of each image; required in training.

        Returns:
            In training the sampled proposals of the last stage and the losses ``loss_cls_stage0``,
            ``loss_box_reg_stage0``, ``loss_mask_stage0``, ...; otherwise the detections and no losses.
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
                # Drop the refined copies of ground-truth boxes: the next stage adds the ground-truth boxes itself.
                boxes = [b[~image.is_target] for b, image in zip(refined, sampled, strict=True)]
        return sampled, losses

    @torch.no_grad()
    def _sample(self, boxes: list[Tensor], targets: list[Instances], stage: int) -> list[Instances]:
        """Match the boxes of each image to the ground truth and sample those that a stage is trained on."""
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
        """Predict (R, K + 1) logits and (R, K * 4) deltas of one stage for the ``proposal_boxes`` of all images."""
        levels = [features[name] for name in self.box_in_features]
        regions = self.box_pooler(levels, [image.proposal_boxes for image in proposals])
        return self.box_predictor[stage](self.box_head[stage](regions))

    @torch.no_grad()
    def _refine(self, proposals: list[Instances], logits: Tensor, deltas: Tensor, stage: int) -> list[Tensor]:
        """Refine the ``proposal_boxes`` of each image for the next stage; the order is kept."""
        sizes = [image.proposal_boxes.tensor.shape[0] for image in proposals]  # len() would be a constant in a trace
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

    @torch.no_grad()
    def detect(
        self,
        features: dict[str, Tensor],
        proposals: Tensor,
        valid: Tensor,
        sizes: Tensor,
        max_detections: int | None = None,
    ) -> DetectionTensors:
        """See :meth:`RoIHeads.detect`."""
        levels = [features[name] for name in self.box_in_features]
        total: Any = 0
        for stage in range(self.num_stages):
            regions = self.box_pooler.pool_batch(levels, proposals)
            logits, deltas = self.box_predictor[stage](self.box_head[stage](regions))
            total = total + logits.to(torch.promote_types(logits.dtype, proposals.dtype))
            if stage + 1 < self.num_stages:
                deltas_of, classes_of = (x.unflatten(0, proposals.shape[:2]) for x in (deltas, refinement_classes(logits)))
                transform = self.box_predictor[stage].box2box_transform
                images = zip(proposals, deltas_of, classes_of, sizes, strict=True)
                proposals = torch.stack([refine_boxes(boxes, d, c, transform, size) for boxes, d, c, size in images])
        predictions = (total / self.num_stages, deltas)
        detections = self.box_predictor[-1].detect(predictions, proposals, valid, sizes, max_detections)
        if not self.mask_on:
            return detections
        return with_masks(detections, features, self.mask_in_features, self.mask_pooler, list(self.mask_head))

    def _detect(self, features: dict[str, Tensor], proposals: list[Instances]) -> list[Instances]:
        """Compute detections from the mean logits of all stages and the boxes of the last stage."""
        total: Any = 0
        for stage in range(self.num_stages):
            logits, deltas = self._run_stage(features, proposals, stage)
            total = total + in_precision_of(proposals, logits)
            if stage + 1 < self.num_stages:
                refined = self._refine(proposals, logits, deltas, stage)
                proposals = [
                    Instances(image.image_size, proposal_boxes=PreciseBoxes(boxes))
                    for image, boxes in zip(proposals, refined, strict=True)
                ]
        detections, _ = self.box_predictor[-1].inference((total / self.num_stages, deltas), proposals)
        return detections

    def _mask_losses(self, features: dict[str, Tensor], sampled: list[Instances], stage: int) -> dict[str, Tensor]:
        """Compute the mask loss of one stage on its positive samples; empty for a detector without masks."""
        if not self.mask_on:
            return {}
        positives, _ = select_foreground_proposals(sampled, self.num_classes)
        levels = [features[name] for name in self.mask_in_features]
        regions = self.mask_pooler(levels, [image.proposal_boxes for image in positives])
        return self.mask_head[stage](regions, positives)

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Add to the detections ``pred_masks``: (R, 1, H, W) probabilities, averaged over the mask heads."""
        if not self.mask_on:
            return instances
        levels = [features[name] for name in self.mask_in_features]
        regions = self.mask_pooler(levels, [image.pred_boxes for image in instances])
        total: Any = 0
        for head in self.mask_head:
            total = total + torch.cat([image.pred_masks for image in head(regions, instances)])
        sizes = [image.pred_boxes.tensor.shape[0] for image in instances]
        for image, masks in zip(instances, (total / self.num_stages).split(sizes), strict=True):
            image.pred_masks = masks
        return instances
