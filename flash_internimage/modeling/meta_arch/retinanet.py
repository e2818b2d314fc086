"""The family of detectron2's RetinaNet, which configs use on this project's backbones. It has no published checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from torch import Tensor

from flash_internimage.errors import UserError
from flash_internimage.families import DetectorFamily, register
from flash_internimage.modeling.anchor_generator import grid_anchors
from flash_internimage.modeling.preprocessing import normalize_and_pad_batch
from flash_internimage.modeling.selection import compact, select_highest, stack_images
from flash_internimage.structures import DetectionTensors
from flash_internimage.structures.boxes import clip_boxes


@torch.no_grad()
def detect(model: RetinaNet, images: Tensor, sizes: Tensor, max_detections: int | None = None) -> DetectionTensors:
    """Detections of a RetinaNet as a function of tensors, for export; see ``flash_internimage.families``.

    Raises:
        UserError: neither ``max_detections`` nor ``max_detections_per_image`` of the model is a positive number.
    """
    count = model.max_detections_per_image if max_detections is None else max_detections
    if count <= 0:
        raise UserError(f"export: max_detections should be positive, got {count}; an exported model has a fixed number of rows")
    batch = normalize_and_pad_batch(images, sizes, model.pixel_mean, model.pixel_std, model.backbone)
    features = model.backbone(batch)
    levels = [features[name] for name in model.head_in_features]
    logits, deltas = model.head(levels)
    boxes, scores, classes = (
        torch.cat(rows, dim=1)
        for rows in zip(
            *(_candidates(model, level, *outputs) for level, outputs in enumerate(zip(logits, deltas, strict=True))),
            strict=True,
        )
    )
    found = []
    for image_boxes, image_scores, image_classes, size in zip(boxes, scores, classes, sizes, strict=True):
        order, kept = select_highest(
            image_boxes, image_scores, image_classes, image_scores >= 0, model.test_nms_thresh, min(count, boxes.shape[1])
        )
        found.append(compact(clip_boxes(image_boxes[order], size), image_scores[order], image_classes[order], kept))
    return stack_images(found)


def _candidates(model: RetinaNet, level: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The (anchor, class) pairs of a level with the highest scores, ``test_topk_candidates`` of them per image.

    Args:
        logits: (N, A * K, H, W).
        deltas: (N, A * 4, H, W).

    Returns:
        (N, R, 4) XYXY boxes, (N, R) scores and (N, R) classes; scores below the threshold are -1.
    """
    generator, count, num_classes = model.anchor_generator, model.test_topk_candidates, model.num_classes
    stride = generator.strides[level]
    anchors = grid_anchors(list(generator.cell_anchors)[level], logits.shape[-2:], stride) + generator.offset * stride
    scores = logits.unflatten(1, (-1, num_classes)).permute(0, 3, 4, 1, 2).flatten(1).sigmoid()  # (N, H * W * A * K)
    deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (N, H * W * A, 4)
    # With a fixed number of rows, no size depends on that of the image.
    scores = F.pad(torch.where(scores > model.test_score_thresh, scores, -1), (0, count), value=-1)
    anchors, deltas = F.pad(anchors, (0, 0, 0, count)), F.pad(deltas, (0, 0, 0, count))
    scores, pairs = scores.topk(count, dim=1)
    rows, classes = pairs // num_classes, pairs % num_classes
    deltas = deltas.gather(1, rows[..., None].expand(-1, -1, 4))
    boxes = model.box2box_transform.apply_deltas(deltas.flatten(0, 1), anchors[rows.flatten()])
    return boxes.unflatten(0, rows.shape), scores, classes


RETINANET = register(
    DetectorFamily(
        title="RetinaNet",
        signature="head.cls_score.weight",
        class_layers=("head.cls_score.*",),
        parts={"head": "heads"},
        detect=detect,
    )
)
