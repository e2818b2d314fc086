"""Classes and boxes of regions: the last two layers of a box head, their losses and the detections they give.

From Girshick, "Fast R-CNN", 2015. The layers and the classification loss are detectron2's ``FastRCNNOutputLayers``.
"""

from __future__ import annotations

from typing import Literal

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import smooth_l1_loss
from torch import Tensor

from flash_internimage.errors import UserError
from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.nms import batched_nms
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes, generalized_iou


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> tuple[Instances, Tensor]:
    """Detections of one image: threshold, suppression within classes, the best over all classes.

    Args:
        boxes: (R, K * 4) XYXY boxes for each class, or (R, 4) for all classes.
        scores: (R, K + 1) probabilities, background last.
        image_size: (height, width) in pixels, without padding; boxes are clipped to it.
        score_threshold: scores must be above this.
        nms_threshold: overlap above which the lesser box of a class goes.
        max_detections: how many to return at most; negative for all.

    Returns:
        ``pred_boxes``, ``scores`` and ``pred_classes``, best first; and the region each comes from.
    """
    scores = scores[:, :-1]
    num_classes = scores.shape[1]
    boxes = clip_boxes(boxes.unflatten(1, (-1, 4)), image_size).expand(-1, num_classes, 4)
    # A region that is not finite gives no detection.
    finite = boxes.isfinite().all(dim=-1) & scores.isfinite()
    regions, classes = ((scores > score_threshold) & finite).nonzero(as_tuple=True)
    boxes, scores = boxes[regions, classes], scores[regions, classes]
    keep = batched_nms(boxes, scores, classes, nms_threshold)
    if max_detections >= 0:
        keep = keep[:max_detections]
    detections = Instances(image_size, pred_boxes=PreciseBoxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep])
    return detections, regions[keep]


class BoxPredictor(FastRCNNOutputLayers):
    """``FastRCNNOutputLayers`` with the regression losses and the test-time selection of the published models.

    Args:
        input_shape: of the region features.
        box2box_transform: how deltas move proposals.
        num_classes: K, without the background.
        box_reg_loss_type: ``"l1"`` on deltas or ``"giou"`` on decoded boxes, both summed over positive regions and
            divided by the number of all regions.
        box_reg_loss_weight: factor on that loss.
        test_score_thresh, test_nms_thresh, test_topk_per_image: see :func:`select_detections`.

    Raises:
        UserError: an unknown ``box_reg_loss_type``.
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
            proposal_boxes, gt_boxes: (R, 4) XYXY boxes; the latter meaningful for positive regions.
            pred_deltas: (R, K * 4).
            gt_classes: (R,) class, K for background.

        Returns:
            A scalar; 0 without positive regions, but still a function of the deltas.
        """
        positive = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero().flatten()
        deltas = class_deltas(pred_deltas[positive], gt_classes[positive])
        references, targets = proposal_boxes[positive], gt_boxes[positive]
        if self.box_reg_loss_type == "giou":
            loss = (1 - generalized_iou(self.box2box_transform.apply_deltas(deltas, references), targets)).sum()
        else:
            wanted = self.box2box_transform.get_deltas(references, targets)
            loss = smooth_l1_loss(deltas, wanted, beta=0.0, reduction="sum")
        return loss / max(len(gt_classes), 1)

    def inference(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> tuple[list[Instances], list[Tensor]]:
        """
        Args:
            predictions: (R, K + 1) logits and (R, K * 4) deltas, image by image.
            proposals: ``proposal_boxes`` of each image, R in all.

        Returns:
            See :func:`select_detections`, for each image.
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


def class_deltas(deltas: Tensor, classes: Tensor) -> Tensor:
    """The (R, 4) deltas of one class a region out of (R, K * 4); (R, 4) deltas are those of every class."""
    if deltas.shape[1] == 4:
        return deltas
    rows = torch.arange(len(deltas), device=deltas.device)
    return deltas.unflatten(1, (-1, 4))[rows, classes]
