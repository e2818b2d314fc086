"""Region proposal network with the assignment, the losses and the selection of the published models.

From Ren et al., "Faster R-CNN", 2015. It differs from detectron2's ``RPN`` in what takes part in training, in what the
losses are divided by, in how proposals are ranked (by score, not by logit) and in precision; ``docs/parity.md`` lists
the points. The convolutions are detectron2's ``StandardRPNHead``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.modeling.anchor_generator import AnchorGenerator
from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.matcher import IGNORED, NEGATIVE, POSITIVE, IoUMatcher
from flash_internimage.modeling.nms import batched_nms
from flash_internimage.modeling.sampling import sample_labels
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes


def round_up(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples of ``divisor``."""
    height, width = size
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def label_anchors(anchors: PreciseBoxes, eligible: Tensor, targets: PreciseBoxes, matcher: IoUMatcher) -> tuple[Tensor, Tensor]:
    """Assign the ground truth of an image to its eligible anchors; others are ignored, as if they did not exist.

    Args:
        anchors: R boxes.
        eligible: (R,) boolean.
        targets: M ground-truth boxes.

    Returns:
        (R,) index of the ground truth, meaningful where positive; (R,) int8 label, see
        :func:`~flash_internimage.modeling.matcher.match_by_iou`.
    """
    matches = torch.zeros(len(anchors), dtype=torch.int64, device=eligible.device)
    labels = torch.full_like(matches, IGNORED, dtype=torch.int8)
    matches[eligible], labels[eligible] = matcher(pairwise_iou(targets, anchors[eligible]))
    return matches, labels


def loss_normalizer(labels: Tensor) -> int:
    """How many anchors of a batch count, with at least one positive and one negative an image.

    Args:
        labels: (N, R) labels of the sampled anchors, -1 elsewhere.
    """
    positives = (labels == POSITIVE).sum(dim=1).clamp(min=1)
    negatives = (labels == NEGATIVE).sum(dim=1).clamp(min=1)
    return int((positives + negatives).sum())


def select_proposals(
    boxes: Tensor,
    logits: Tensor,
    levels: Tensor,
    image_size: tuple[int, int],
    nms_threshold: float,
    max_proposals: int,
    min_size: float,
) -> Instances:
    """Clip, drop boxes that are too small or not finite, suppress duplicates within levels, keep the best.

    Args:
        boxes: (R, 4) XYXY boxes.
        logits: (R,) objectness before the sigmoid.
        levels: (R,) pyramid level.
        image_size: (height, width) in pixels, without padding.
        min_size: width and height must be above this, in pixels.

    Returns:
        ``proposal_boxes`` and ``objectness_logits``, best first.
    """
    boxes = clip_boxes(boxes, image_size)
    sizes = boxes[:, 2:] - boxes[:, :2]
    keep = (sizes > min_size).all(dim=1) & boxes.isfinite().all(dim=1) & logits.isfinite()
    boxes, logits, levels = boxes[keep], logits[keep], levels[keep]
    keep = batched_nms(boxes, logits.sigmoid(), levels, nms_threshold)[:max_proposals]
    return Instances(image_size, proposal_boxes=PreciseBoxes(boxes[keep]), objectness_logits=logits[keep])


class RPN(nn.Module):
    """Proposes boxes that may hold an object, from a feature pyramid.

    Shapes: N images, L levels, A anchors a cell, R = sum of H * W * A over the levels.

    Args:
        in_features: names of the levels.
        head: from a list of features to a list of (N, A, H, W) logits and one of (N, 4 * A, H, W) deltas.
        anchor_generator: anchors of the same levels.
        anchor_matcher: assigns ground truth to anchors.
        box2box_transform: how deltas move anchors.
        batch_size_per_image: anchors that the losses look at, in each image.
        positive_fraction: how much of them may be positive.
        pre_nms_topk: (training, test) proposals taken from each level of an image.
        post_nms_topk: (training, test) proposals of an image.
        nms_thresh: overlap above which the lesser proposal goes, within a level.
        min_box_size: proposals must be wider and higher than this, in pixels.
        anchor_boundary_thresh: anchors that reach further beyond the image than this, in pixels, take no part in
            training; negative: all take part.
        smooth_l1_beta: where the regression loss turns from quadratic to linear; 0 for L1.
        size_divisibility: an image is padded to a multiple of this for its own sake; anchors in what a batch adds
            beyond take no part in training.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: AnchorGenerator,
        anchor_matcher: IoUMatcher,
        box2box_transform: BoxTransform,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: tuple[int, int],
        post_nms_topk: tuple[int, int],
        nms_thresh: float = 0.7,
        min_box_size: float = 0.0,
        anchor_boundary_thresh: float = -1.0,
        smooth_l1_beta: float = 0.0,
        size_divisibility: int = 32,
    ) -> None:
        super().__init__()
        self.in_features = list(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.anchor_matcher = anchor_matcher
        self.box2box_transform = box2box_transform
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk = {True: pre_nms_topk[0], False: pre_nms_topk[1]}
        self.post_nms_topk = {True: post_nms_topk[0], False: post_nms_topk[1]}
        self.nms_thresh = nms_thresh
        self.min_box_size = min_box_size
        self.anchor_boundary_thresh = anchor_boundary_thresh
        self.smooth_l1_beta = smooth_l1_beta
        self.size_divisibility = size_divisibility

    def forward(
        self, images: ImageList, features: dict[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images: the padded batch; only the images' sizes are used.
            features: name -> (N, C, H, W).
            gt_instances: ``gt_boxes`` of each image; training only.

        Returns:
            Proposals of each image (``proposal_boxes``, ``objectness_logits``), and in training ``loss_rpn_cls`` and
            ``loss_rpn_loc``.
        """
        feature_list = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(feature_list)
        logits, deltas = self.rpn_head(feature_list)
        # Cell by cell, as the anchors: (N, A, H, W) -> (N, H * W * A), (N, A * 4, H, W) -> (N, H * W * A, 4).
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for level in deltas]

        losses = {}
        if self.training:
            if gt_instances is None:
                raise UserError("RPN: training needs gt_instances, got None")
            labels, matched_boxes = self.label_and_sample_anchors(feature_list, anchors, gt_instances)
            classification, regression = self.losses_by_level(anchors, logits, deltas, labels, matched_boxes)
            losses = {"loss_rpn_cls": torch.stack(classification).sum(), "loss_rpn_loc": torch.stack(regression).sum()}
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def eligible_anchors(self, features: list[Tensor], anchors: PreciseBoxes, image_size: tuple[int, int]) -> Tensor:
        """(R,) boolean: the anchors that take part in training for an image of (height, width) pixels."""
        eligible = self.anchor_generator.within(features, round_up(image_size, self.size_divisibility))
        if self.anchor_boundary_thresh >= 0:
            eligible = eligible & anchors.inside_box(image_size, self.anchor_boundary_thresh)
        return eligible

    @torch.no_grad()
    def label_and_sample_anchors(
        self, features: list[Tensor], anchors: list[PreciseBoxes], gt_instances: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Choose the anchors for the losses.

        Returns:
            (N, R) labels of the chosen anchors (1 positive, 0 negative), -1 for all others; (N, R, 4) boxes that the
            positive ones should become.
        """
        all_anchors = PreciseBoxes.cat(anchors)
        labels, matched_boxes = [], []
        for instances in gt_instances:
            targets = PreciseBoxes(instances.gt_boxes.tensor.to(all_anchors.tensor.dtype))
            eligible = self.eligible_anchors(features, all_anchors, instances.image_size)
            matches, all_labels = label_anchors(all_anchors, eligible, targets, self.anchor_matcher)
            positives, negatives = sample_labels(all_labels, self.batch_size_per_image, self.positive_fraction)
            chosen = torch.full_like(all_labels, IGNORED)
            chosen[positives] = POSITIVE
            chosen[negatives] = NEGATIVE
            labels.append(chosen)
            matched_boxes.append(targets.tensor[matches] if len(targets) > 0 else all_anchors.tensor)
        return torch.stack(labels), torch.stack(matched_boxes)

    def losses_by_level(
        self,
        anchors: list[PreciseBoxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        labels: Tensor,
        matched_boxes: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Binary cross-entropy over the chosen anchors and (smooth) L1 over the positive ones.

        Args:
            logits: for each level (N, H * W * A).
            deltas: for each level (N, H * W * A, 4).
            labels, matched_boxes: of :meth:`label_and_sample_anchors`.

        Returns:
            The classification and the regression loss of each level; their sums are the losses of the batch.
        """
        num_images = len(labels)
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", int((labels == POSITIVE).sum()) / num_images)
        storage.put_scalar("rpn/num_neg_anchors", int((labels == NEGATIVE).sum()) / num_images)

        normalizer = loss_normalizer(labels)
        sizes = [len(level) for level in anchors]
        levels = zip(anchors, logits, deltas, labels.split(sizes, dim=1), matched_boxes.split(sizes, dim=1), strict=True)
        classification, regression = [], []
        for level_anchors, level_logits, level_deltas, level_labels, level_boxes in levels:
            chosen = level_labels != IGNORED
            objectness = F.binary_cross_entropy_with_logits(
                level_logits[chosen], level_labels[chosen].to(level_logits.dtype), reduction="sum"
            )
            positive = level_labels == POSITIVE
            wanted = self.box2box_transform.get_deltas(
                level_anchors.tensor.expand(num_images, -1, 4)[positive], level_boxes[positive]
            )
            location = smooth_l1_loss(level_deltas[positive], wanted, beta=self.smooth_l1_beta, reduction="sum")
            classification.append(objectness / normalizer)
            regression.append(location / normalizer)
        return classification, regression

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[PreciseBoxes],
        logits: list[Tensor],
        deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Decode the best anchors of each level and select proposals among them; no gradient passes.

        Returns:
            ``proposal_boxes`` and ``objectness_logits`` of each image, best first.
        """
        topk = self.pre_nms_topk[self.training]
        boxes, scores, levels = [], [], []
        for number, (level_anchors, level_logits, level_deltas) in enumerate(zip(anchors, logits, deltas, strict=True)):
            level_logits = level_logits.to(level_anchors.tensor.dtype)
            # Saturated logits are equal as scores, and equal scores go by position, here and in suppression.
            best = level_logits.sigmoid().argsort(dim=1, descending=True, stable=True)[:, :topk]
            best_deltas = level_deltas.gather(1, best[..., None].expand(-1, -1, 4))
            decoded = self.box2box_transform.apply_deltas(best_deltas.reshape(-1, 4), level_anchors.tensor[best.flatten()])
            boxes.append(decoded.reshape(best_deltas.shape))
            scores.append(level_logits.gather(1, best))
            levels.append(torch.full_like(best[0], number))
        return [
            select_proposals(
                image_boxes,
                image_logits,
                torch.cat(levels),
                image_size,
                self.nms_thresh,
                self.post_nms_topk[self.training],
                self.min_box_size,
            )
            for image_boxes, image_logits, image_size in zip(
                torch.cat(boxes, dim=1), torch.cat(scores, dim=1), image_sizes, strict=True
            )
        ]
