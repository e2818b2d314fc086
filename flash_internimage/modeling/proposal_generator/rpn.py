"""Region proposal network (RPN) with MMDetection's anchor matching, losses and proposal selection.

Source: Ren et al., "Faster R-CNN", 2015.
"""

from __future__ import annotations

import math
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
from flash_internimage.modeling.selection import highest, select_highest
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes


def round_up(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples of ``divisor``."""
    height, width = size
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def label_anchors(anchors: PreciseBoxes, eligible: Tensor, targets: PreciseBoxes, matcher: IoUMatcher) -> tuple[Tensor, Tensor]:
    """Match the eligible anchors of an image to its ground-truth boxes; label all other anchors as ignored.

    Ineligible anchors are removed before the matching, so they cannot claim a ground-truth box.

    Args:
        anchors: R anchors.
        eligible: (R,) boolean.
        targets: M ground-truth boxes.
        matcher: matches the anchors to ``targets``.

    Returns:
        (R,) index of the matched ground-truth box, valid for positive anchors; (R,) int8 label, see
        :func:`~flash_internimage.modeling.matcher.match_by_iou`.
    """
    matches = torch.zeros(len(anchors), dtype=torch.int64, device=eligible.device)
    labels = torch.full_like(matches, IGNORED, dtype=torch.int8)
    matches[eligible], labels[eligible] = matcher(pairwise_iou(targets, anchors[eligible]))
    return matches, labels


def loss_normalizer(labels: Tensor) -> int:
    """Number of sampled anchors in a batch, counting at least one positive and one negative per image.

    Args:
        labels: (N, R) labels of the sampled anchors, -1 for all others.
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
    """Select the proposals of one image: clip boxes, drop small or non-finite ones, apply NMS per level, keep the best.

    Args:
        boxes: (R, 4) XYXY boxes.
        logits: (R,) objectness logits.
        levels: (R,) pyramid levels.
        image_size: (height, width) in pixels, without padding.
        nms_threshold: IoU above which the proposal with the lower score is suppressed, within a level.
        max_proposals: maximum number of proposals to return.
        min_size: proposals must be wider and higher than this, in pixels.

    Returns:
        ``proposal_boxes`` and ``objectness_logits``, by descending score.
    """
    boxes = clip_boxes(boxes, image_size)
    keep = _is_proposal(boxes, logits, min_size)
    boxes, logits, levels = boxes[keep], logits[keep], levels[keep]
    keep = batched_nms(boxes, logits.sigmoid(), levels, nms_threshold)[:max_proposals]
    return Instances(image_size, proposal_boxes=PreciseBoxes(boxes[keep]), objectness_logits=logits[keep])


def _is_proposal(boxes: Tensor, logits: Tensor, min_size: float) -> Tensor:
    sizes = boxes[:, 2:] - boxes[:, :2]
    return (sizes > min_size).all(dim=1) & boxes.isfinite().all(dim=1) & logits.isfinite()


class RPN(nn.Module):
    """Region proposal network: proposes object boxes from a feature pyramid.

    Replaces detectron2's ``RPN``; the convolutions are detectron2's ``StandardRPNHead``. As in MMDetection, anchors in the
    padding that a batch adds to an image are excluded from training, the losses are divided by the number of sampled
    anchors, and proposals are ranked by score instead of logit. Boxes keep the precision of the network.
    ``docs/parity.md`` lists all differences.

    Shapes: N images, L levels, A anchors per position, R = sum of H * W * A over the levels.

    Args:
        in_features: names of the feature levels.
        head: maps a list of features to a list of (N, A, H, W) logits and a list of (N, 4 * A, H, W) deltas.
        anchor_generator: generates the anchors of the same levels.
        anchor_matcher: matches anchors to ground-truth boxes.
        box2box_transform: encodes and decodes the deltas of anchors.
        batch_size_per_image: number of anchors per image to sample for the losses.
        positive_fraction: maximum fraction of positives among them.
        pre_nms_topk: (training, test) number of proposals per level and image before NMS.
        post_nms_topk: (training, test) number of proposals per image after NMS.
        nms_thresh: IoU above which the proposal with the lower score is suppressed, within a level.
        min_box_size: proposals must be wider and higher than this, in pixels.
        anchor_boundary_thresh: exclude anchors from training that extend beyond the image by more than this, in pixels;
            negative to include all anchors.
        smooth_l1_beta: error at which the regression loss changes from quadratic to linear; 0 for the L1 loss.
        size_divisibility: each image alone would be padded to a multiple of this. Anchors in padding beyond that, which
            comes from larger images in the batch, are excluded from training.
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
            images: the padded batch, of which only the image sizes are used.
            features: name -> (N, C, H, W).
            gt_instances: ``gt_boxes`` of each image; required in training.

        Returns:
            Proposals of each image (``proposal_boxes``, ``objectness_logits``); and the losses ``loss_rpn_cls`` and
            ``loss_rpn_loc`` in training, otherwise no losses.
        """
        feature_list = [features[name] for name in self.in_features]
        anchors, logits, deltas = self._predict(feature_list)
        losses = {}
        if self.training:
            if gt_instances is None:
                raise UserError("RPN: training needs gt_instances, got None")
            labels, matched_boxes = self.label_and_sample_anchors(feature_list, anchors, gt_instances)
            classification, regression = self.losses_by_level(anchors, logits, deltas, labels, matched_boxes)
            losses = {"loss_rpn_cls": torch.stack(classification).sum(), "loss_rpn_loc": torch.stack(regression).sum()}
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def propose(self, features: dict[str, Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Equivalent of :meth:`forward` in evaluation with a fixed number of proposals P per image, for export.

        Args:
            features: name -> (N, C, H, W).
            sizes: (N, 2) integers (height, width) of the images without padding.

        Returns:
            (N, P, 4) XYXY boxes by descending score; (N, P) bool, false for rows beyond the number of proposals.
        """
        boxes, logits, levels = self._best_anchors(*self._predict([features[name] for name in self.in_features]))
        boxes = clip_boxes(boxes, sizes)
        count = min(self.post_nms_topk[self.training], boxes.shape[1])
        proposals, valid = [], []
        for image_boxes, image_logits in zip(boxes, logits, strict=True):
            eligible = _is_proposal(image_boxes, image_logits, self.min_box_size)
            scores = image_logits.sigmoid()
            order, kept = select_highest(image_boxes, scores, levels, eligible, self.nms_thresh, count)
            proposals.append(torch.where(kept[:, None], image_boxes[order], 0))
            valid.append(kept)
        return torch.stack(proposals), torch.stack(valid)

    def _predict(self, features: list[Tensor]) -> tuple[list[PreciseBoxes], list[Tensor], list[Tensor]]:
        """Anchors, logits and deltas of each level; the last two in the order of the anchors."""
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        # (N, A, H, W) -> (N, H * W * A), (N, A * 4, H, W) -> (N, H * W * A, 4)
        logits = [level.permute(0, 2, 3, 1).flatten(1) for level in logits]
        deltas = [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)) for level in deltas]
        return anchors, logits, deltas

    def eligible_anchors(self, features: list[Tensor], anchors: PreciseBoxes, image_size: tuple[int, int]) -> Tensor:
        """(R,) boolean mask of the anchors used in training for an image of (height, width) pixels."""
        eligible = self.anchor_generator.within(features, round_up(image_size, self.size_divisibility))
        if self.anchor_boundary_thresh >= 0:
            eligible = eligible & anchors.inside_box(image_size, self.anchor_boundary_thresh)
        return eligible

    @torch.no_grad()
    def label_and_sample_anchors(
        self, features: list[Tensor], anchors: list[PreciseBoxes], gt_instances: list[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Match the anchors of each image to its ground truth and sample those for the losses.

        Returns:
            (N, R) labels of the sampled anchors (1 positive, 0 negative), -1 for all others; (N, R, 4) ground-truth boxes
            matched to the anchors, valid for positives.
        """
        all_anchors = PreciseBoxes.cat(anchors)
        labels, matched_boxes = [], []
        for instances in gt_instances:
            targets = PreciseBoxes(instances.gt_boxes.tensor.to(all_anchors.tensor.dtype))
            eligible = self.eligible_anchors(features, all_anchors, instances.image_size)
            matches, all_labels = label_anchors(all_anchors, eligible, targets, self.anchor_matcher)
            positives, negatives = sample_labels(all_labels, self.batch_size_per_image, self.positive_fraction)
            sampled = torch.full_like(all_labels, IGNORED)
            sampled[positives] = POSITIVE
            sampled[negatives] = NEGATIVE
            labels.append(sampled)
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
        """Compute the binary cross-entropy of the sampled anchors and the (smooth) L1 loss of the positive ones.

        Args:
            anchors: H * W * A anchors for each level.
            logits: (N, H * W * A) for each level.
            deltas: (N, H * W * A, 4) for each level.
            labels, matched_boxes: results of :meth:`label_and_sample_anchors`.

        Returns:
            The classification and the regression loss of each level; the losses of the batch are their sums.
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
            sampled = level_labels != IGNORED
            objectness = F.binary_cross_entropy_with_logits(
                level_logits[sampled], level_labels[sampled].to(level_logits.dtype), reduction="sum"
            )
            positive = level_labels == POSITIVE
            target_deltas = self.box2box_transform.get_deltas(
                level_anchors.tensor.expand(num_images, -1, 4)[positive], level_boxes[positive]
            )
            location = smooth_l1_loss(level_deltas[positive], target_deltas, beta=self.smooth_l1_beta, reduction="sum")
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
        """Decode the highest-scoring anchors of each level and select proposals from them, without gradients.

        Returns:
            ``proposal_boxes`` and ``objectness_logits`` of each image, by descending score.
        """
        boxes, logits_of_boxes, levels = self._best_anchors(anchors, logits, deltas)
        return [
            select_proposals(
                image_boxes,
                image_logits,
                levels,
                image_size,
                self.nms_thresh,
                self.post_nms_topk[self.training],
                self.min_box_size,
            )
            for image_boxes, image_logits, image_size in zip(boxes, logits_of_boxes, image_sizes, strict=True)
        ]

    def _best_anchors(
        self, anchors: list[PreciseBoxes], logits: list[Tensor], deltas: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the ``pre_nms_topk`` highest-scoring anchors of each level.

        Returns:
            (N, R, 4) XYXY boxes, (N, R) logits and (R,) levels. Rows beyond the number of anchors of a level have the logit
            -inf: with a fixed number of rows, no size depends on that of the image.
        """
        topk = self.pre_nms_topk[self.training]
        boxes, scores, levels = [], [], []
        for level, (level_anchors, level_logits, level_deltas) in enumerate(zip(anchors, logits, deltas, strict=True)):
            level_boxes = F.pad(level_anchors.tensor, (0, 0, 0, topk))
            level_logits = F.pad(level_logits.to(level_boxes.dtype), (0, topk), value=-math.inf)
            level_deltas = F.pad(level_deltas, (0, 0, 0, topk))
            # Rank by score, as MMDetection does: saturated logits have equal scores, and ties are broken by position, here
            # and in NMS.
            best = highest(level_logits.sigmoid(), topk)
            best_deltas = level_deltas.gather(1, best[..., None].expand(-1, -1, 4))
            decoded = self.box2box_transform.apply_deltas(best_deltas.reshape(-1, 4), level_boxes[best.flatten()])
            boxes.append(decoded.reshape(best_deltas.shape))
            scores.append(level_logits.gather(1, best))
            levels.append(torch.full_like(best[0], level))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(levels)
