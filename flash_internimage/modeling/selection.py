"""Selection of boxes with a fixed number of rows, so that exported detectors have no data-dependent shapes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from flash_internimage.structures import DetectionTensors


def highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores along the last axis, in descending order; equal scores in order of position.

    In an exported graph, equal scores may be in any order: few runtimes sort a large tensor, but all have a top-k, and that of
    ONNX goes by position too.
    """
    if _is_exporting():
        return scores.topk(count).indices
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count]


def nms_mask(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Mask of the boxes that :func:`batched_nms` keeps of the valid ones; its size does not depend on the values.

    Args:
        boxes: (R, 4) XYXY boxes in absolute pixels.
        scores: (R,) non-negative; among equal scores the earlier box has precedence.
        groups: (R,) non-negative integers, such as classes or pyramid levels.
        valid: (R,) bool; other boxes are ignored and may be anything.
        threshold: IoU above which the box with the lower score is suppressed.
    """
    boxes = torch.where(valid[:, None], boxes, 0)
    # The shift of batched_nms; boxes that are not clipped to their image may be negative.
    step = boxes.amax() - boxes.amin().clamp(max=0) + 1
    # One common box for all invalid ones, behind all others: the first of them suppresses the rest and nothing else.
    apart = boxes.new_tensor([-2.0, -2.0, -1.0, -1.0]) - step
    boxes = torch.where(valid[:, None], boxes + (groups.to(boxes.dtype) * step)[:, None], apart)
    # torch.export asserts that a size that depends on values is at least 2: two more boxes, which nothing suppresses.
    boxes = torch.cat([boxes, torch.stack([apart - 2, apart - 4])])
    scores = F.pad(torch.where(valid, scores, -1), (0, 2), value=-1.0)
    keep = nms(boxes, scores, threshold)
    return F.pad(torch.zeros_like(valid), (0, 2)).scatter(0, keep, True)[:-2] & valid


def select_highest(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Apply NMS to the valid boxes and select those with the highest scores, as a fixed number of rows.

    Args:
        boxes, scores, groups, valid, threshold: as for :func:`nms_mask`.
        count: number of rows; at most R.

    Returns:
        (count,) indices by descending score; (count,) bool, false for rows beyond the number of remaining boxes.
    """
    keep = nms_mask(boxes, scores, groups, valid, threshold)
    order = highest(torch.where(keep, scores, -1), count)
    return order, keep[order]


def compact(boxes: Tensor, scores: Tensor, classes: Tensor, valid: Tensor) -> DetectionTensors:
    """Detections of one image, without the dimension N: valid rows first, then rows of zeros.

    Boxes without area are dropped, as detectron2's ``detector_postprocess`` does after its selection.

    Args:
        boxes: (K, 4) XYXY boxes.
        scores: (K,) non-negative, in descending order among the valid rows.
        classes: (K,) int64.
        valid: (K,) bool.
    """
    valid = valid & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    order = highest(torch.where(valid, scores, -1), scores.shape[0])
    kept = valid[order]
    return DetectionTensors(
        torch.where(kept[:, None], boxes[order], 0),
        torch.where(kept, scores[order], 0),
        torch.where(kept, classes[order], 0),
        valid.sum(),
    )


def stack_images(images: list[DetectionTensors]) -> DetectionTensors:
    """Batch of the detections of single images, which have no masks."""
    return DetectionTensors(*(torch.stack(list(rows)) for rows in zip(*(image[:4] for image in images), strict=True)))


def _is_exporting() -> bool:
    # torch 2.6 has no is_exporting; is_compiling is true during an export as well.
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
