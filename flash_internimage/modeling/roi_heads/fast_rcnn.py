"""Fast R-CNN output layers: classification and box regression of regions, their losses, and test-time selection.

Source: Girshick, "Fast R-CNN", 2015.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from flash_internimage.errors import UserError
from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.nms import batched_nms
from flash_internimage.modeling.selection import compact, highest, select_highest, stack_images
from flash_internimage.structures import DetectionTensors
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes, generalized_iou

# Exported detectors consider a fixed number of (region, class) pairs per image, those with the highest scores; TensorRT can
# sort at most 3840.
MAX_CANDIDATES = 3072


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> tuple[Instances, Tensor]:
    """Select the detections of one image: threshold the scores, apply NMS per class, keep the best over all classes.

    Args:
        boxes: (R, K * 4) XYXY boxes per class, or (R, 4) class-agnostic boxes.
        scores: (R, K + 1) probabilities, background last.
        image_size: (height, width) in pixels, without padding; boxes are clipped to it.
        score_threshold: scores must be greater than this.
        nms_threshold: IoU above which the box with the lower score is suppressed, within a class.
        max_detections: maximum number of detections; negative for no limit.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes``, by descending score; and the index of the region of each detection.
    """
    boxes, scores, candidates = _candidates(boxes, scores, image_size, score_threshold)
    regions, classes = candidates.nonzero(as_tuple=True)
    boxes, scores = boxes[regions, classes], scores[regions, classes]
    keep = batched_nms(boxes, scores, classes, nms_threshold)
    if max_detections >= 0:
        keep = keep[:max_detections]
    detections = Instances(image_size, pred_boxes=PreciseBoxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep])
    return detections, regions[keep]


def select_fixed_number(
    boxes: Tensor,
    scores: Tensor,
    valid: Tensor,
    image_size: Tensor,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> DetectionTensors:
    """Equivalent of :func:`select_detections` in which no size depends on the scores, for export.

    Args:
        boxes, scores, score_threshold, nms_threshold: as for :func:`select_detections`.
        valid: (R,) bool; other regions are ignored.
        image_size: (2,) integers (height, width).
        max_detections: maximum number of detections, and number of rows of the result.

    Returns:
        Detections of one image, without the dimension N. Boxes without area are dropped, as detectron2's postprocessing does.
    """
    boxes, scores, candidates = _candidates(boxes, scores, image_size, score_threshold)
    num_classes = scores.shape[1]
    scores = torch.where(candidates & valid[:, None], scores, -1).flatten()
    # A maximum of detections beyond the number of pairs needs padding.
    scores = F.pad(scores, (0, max(max_detections - scores.shape[0], 0)), value=-1)
    best = highest(scores, min(max(MAX_CANDIDATES, max_detections), scores.shape[0]))
    scores = scores[best]
    regions, classes = best // num_classes, best % num_classes
    boxes = boxes[regions.clamp(max=boxes.shape[0] - 1), classes]
    order, kept = select_highest(boxes, scores, classes, scores >= 0, nms_threshold, max_detections)
    return compact(boxes[order], scores[order], classes[order], kept)


def _candidates(
    boxes: Tensor, scores: Tensor, image_size: tuple[int, int] | Tensor, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(R, K, 4) clipped boxes, (R, K) scores without background, and the mask of the pairs that may be detections."""
    scores = scores[:, :-1]
    boxes = clip_boxes(boxes.unflatten(1, (-1, 4)), image_size).expand(-1, scores.shape[1], 4)
    # Non-finite boxes and scores give no detections.
    finite = boxes.isfinite().all(dim=-1) & scores.isfinite()
    return boxes, scores, (scores > score_threshold) & finite


class BoxPredictor(FastRCNNOutputLayers):
    """Extends detectron2's ``FastRCNNOutputLayers`` with MMDetection's regression losses and test-time selection.

    The layers and the classification loss are detectron2's. The regression losses and the selection use this package's box
    decoding, GIoU and NMS, which compute as MMDetection does and keep the precision of the network.

    Args:
        input_shape: shape of the region features.
        box2box_transform: encodes and decodes the deltas of proposals.
        num_classes: number of foreground classes K.
        box_reg_loss_type: ``"l1"`` on deltas or ``"giou"`` on decoded boxes; both are summed over the positive regions and
            divided by the number of all regions.
        box_reg_loss_weight: factor on the regression loss.
        test_score_thresh, test_nms_thresh, test_topk_per_image: see :func:`select_detections`.

    Raises:
        UserError: ``box_reg_loss_type`` is unknown.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        box2box_transform: BoxTransform,
        num_classes: int,
        box_reg_loss_type: Literal["l1", "giou"] = "l1",
        box_reg_loss_weight: float = 1.0,
        test_score_thresh: float = 0.05,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
    ) -> None:
        if box_reg_loss_type not in ("l1", "giou"):
            raise UserError(f"BoxPredictor: box_reg_loss_type must be 'l1' or 'giou', got {box_reg_loss_type!r}")
        super().__init__(
            input_shape,
            box2box_transform=box2box_transform,
            num_classes=num_classes,
            test_score_thresh=test_score_thresh,
            test_nms_thresh=test_nms_thresh,
            test_topk_per_image=test_topk_per_image,
            box_reg_loss_type=box_reg_loss_type,
            loss_weight={"loss_box_reg": box_reg_loss_weight},
        )

    def box_reg_loss(self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor) -> Tensor:
        """
        Args:
            proposal_boxes, gt_boxes: (R, 4) XYXY boxes; ``gt_boxes`` are valid for positive regions only.
            pred_deltas: (R, K * 4) deltas per class.
            gt_classes: (R,) classes, K for background.

        Returns:
            A scalar. Without positive regions it is 0 but still connected to the deltas, so that they get gradients.
        """
        positive = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero().flatten()
        deltas = class_deltas(pred_deltas[positive], gt_classes[positive])
        references, targets = proposal_boxes[positive], gt_boxes[positive]
        if self.box_reg_loss_type == "giou":
            loss = (1 - generalized_iou(self.box2box_transform.apply_deltas(deltas, references), targets)).sum()
        else:
            target_deltas = self.box2box_transform.get_deltas(references, targets)
            loss = smooth_l1_loss(deltas, target_deltas, beta=0.0, reduction="sum")
        return loss / max(len(gt_classes), 1)

    def inference(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[list[Instances], list[Tensor]]:
        """
        Args:
            predictions: (R, K + 1) logits and (R, K * 4) deltas, in the order of the images and their proposals.
            proposals: ``proposal_boxes`` of each image, R in total.

        Returns:
            The results of :func:`select_detections` for each image.
        """
        boxes = self.predict_boxes(predictions, proposals)
        scores = self.predict_probs(predictions, proposals)
        results = [
            select_detections(
                image_boxes,
                image_scores,
                image.image_size,
                self.test_score_thresh,
                self.test_nms_thresh,
                self.test_topk_per_image,
            )
            for image_boxes, image_scores, image in zip(boxes, scores, proposals, strict=True)
        ]
        return [detections for detections, _ in results], [regions for _, regions in results]

    def detect(
        self,
        predictions: tuple[Tensor, Tensor],
        proposals: Tensor,
        valid: Tensor,
        sizes: Tensor,
        max_detections: int | None = None,
    ) -> DetectionTensors:
        """Equivalent of :meth:`inference` on a fixed number of proposals P per image, for export.

        Args:
            predictions: (N * P, K + 1) logits and (N * P, K * 4) deltas.
            proposals: (N, P, 4) XYXY boxes.
            valid: (N, P) bool; other proposals are ignored.
            sizes: (N, 2) integers (height, width) of the images.
            max_detections: number of rows of the result; None for ``test_topk_per_image``.

        Returns:
            The results of :func:`select_fixed_number` for each image.

        Raises:
            UserError: neither ``max_detections`` nor ``test_topk_per_image`` is a positive number.
        """
        count = self.test_topk_per_image if max_detections is None else max_detections
        if count <= 0:
            raise UserError(
                f"export: max_detections should be positive, got {count}; an exported model has a fixed number of rows"
            )
        logits, deltas = predictions
        boxes = self.box2box_transform.apply_deltas(deltas, proposals.flatten(0, 1)).unflatten(0, proposals.shape[:2])
        scores = logits.to(torch.promote_types(logits.dtype, boxes.dtype)).softmax(dim=-1).unflatten(0, proposals.shape[:2])
        thresholds = self.test_score_thresh, self.test_nms_thresh
        return stack_images(
            [select_fixed_number(*image, *thresholds, count) for image in zip(boxes, scores, valid, sizes, strict=True)]
        )

    def predict_probs(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> list[Tensor]:
        """Compute the (R, K + 1) probabilities of each image, in at least the precision of its boxes.

        Under autocast the logits are in half precision, in which most probabilities would be equal to others.
        """
        logits, deltas = predictions
        return super().predict_probs((in_precision_of(proposals, logits), deltas), proposals)


def in_precision_of(proposals: list[Instances], logits: Tensor) -> Tensor:
    """Convert logits to the dtype of the ``proposal_boxes``, unless theirs is wider."""
    dtypes = [image.proposal_boxes.tensor.dtype for image in proposals]
    return logits.to(functools.reduce(torch.promote_types, dtypes, logits.dtype))


def class_deltas(deltas: Tensor, classes: Tensor) -> Tensor:
    """Select the deltas of one class per region: (R, K * 4) -> (R, 4); class-agnostic (R, 4) deltas are returned as is."""
    if deltas.shape[1] == 4:
        return deltas
    rows = torch.arange(deltas.shape[0], device=deltas.device)  # len() would be a constant in a trace
    return deltas.unflatten(1, (-1, 4))[rows, classes]
