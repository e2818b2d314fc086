"""DINO as a detectron2 meta-architecture: images and annotations in, losses or detections out.

Source: Zhang et al., "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection", arXiv:2203.03605.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.modeling.detr.box_ops import to_corners
from flash_internimage.modeling.detr.channel_mapper import ChannelMapper
from flash_internimage.modeling.detr.denoising import DenoisingQueries
from flash_internimage.modeling.detr.feature_levels import resize_mask
from flash_internimage.modeling.detr.position_encoding import SinePositionEncoding
from flash_internimage.modeling.detr.targets import Target, target_of
from flash_internimage.modeling.preprocessing import normalize_and_pad, normalize_and_pad_batch, padding_mask, padding_rule
from flash_internimage.structures import DetectionTensors
from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes

from .criterion import DINOCriterion
from .denoising import ContrastiveDenoising
from .transformer import DINOTransformer, TransformerOutput


class DINO(nn.Module):
    """The DINO detector: backbone, neck, transformer and losses.

    Padded images and boxes have the dtype of the pixel statistics, so after ``model.double()`` everything is float64.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: ChannelMapper,
        position_encoding: SinePositionEncoding,
        transformer: DINOTransformer,
        denoising: ContrastiveDenoising,
        criterion: DINOCriterion,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        detections_per_image: int = 300,
    ) -> None:
        """
        Args:
            backbone: batches are padded as its ``size_divisibility`` and ``padding_constraints`` say.
            neck: {name: (N, C, H, W)} -> feature levels.
            position_encoding: padding mask of one level -> (N, C, H, W).
            transformer: feature levels -> predictions.
            denoising: targets -> denoising queries, in training.
            criterion: predictions and targets -> losses.
            num_classes: K. Not used here: a config sets it once, and the parts refer to it.
            pixel_mean, pixel_std: one value per channel, on the scale of 0..255.
            input_format: order of the images' channels; read by data loaders.
            detections_per_image: number of (query, class) pairs to return, those with the highest scores.
        """
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.position_encoding = position_encoding
        self.transformer = transformer
        self.denoising = denoising
        self.criterion = criterion
        self.num_classes = num_classes
        self.input_format = input_format
        self.detections_per_image = detections_per_image
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Compute the losses in training, and the detections otherwise.

        Args:
            batched_inputs: detectron2's dicts. ``image`` (C, H, W) on the scale of 0..255; in training ``instances`` with
                ``gt_boxes`` and ``gt_classes``; otherwise ``height`` and ``width`` of the output, by default those of the
                image.

        Returns:
            In training the losses, with the names of :class:`DINOCriterion`. Otherwise ``{"instances": ...}`` for each
            image with ``pred_boxes`` (XYXY, in pixels of the output), ``scores`` and ``pred_classes``, in descending order
            of scores.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:
            targets = self.targets(batched_inputs)
            denoising = self.denoising(targets)
            return self.criterion(self.predict(images, denoising), denoising, targets)

        output = self.predict(images)
        # Under autocast the logits may be in half precision, in which thousands of scores would be equal.
        logits = output.logits[-1].to(output.boxes.dtype)
        detections = detect(logits, output.boxes[-1], images.image_sizes, self.detections_per_image)
        return [
            {"instances": rescale(instances, inputs.get("height"), inputs.get("width"))}
            for instances, inputs in zip(detections, batched_inputs, strict=True)
        ]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """See :func:`~flash_internimage.modeling.preprocessing.normalize_and_pad`."""
        images = [inputs["image"] for inputs in batched_inputs]
        return normalize_and_pad(images, self.pixel_mean, self.pixel_std, self.backbone)

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor, max_detections: int | None = None) -> DetectionTensors:
        """Equivalent of :meth:`forward` as a function of tensors, for export; see ``flash_internimage.families``."""
        batch = normalize_and_pad_batch(images, sizes, self.pixel_mean, self.pixel_std, self.backbone)
        output = self._predict(batch, sizes)
        count = self.detections_per_image if max_detections is None else max_detections
        scores, classes, boxes = best_pairs(output.logits[-1].to(output.boxes.dtype), output.boxes[-1], count)
        boxes = clip_boxes(boxes * sizes.flip(1).repeat(1, 2)[:, None], sizes)
        return DetectionTensors(boxes, scores, classes, torch.full_like(sizes[:, 0], scores.shape[1]))

    def smallest_side(self) -> int:
        """Smallest side in pixels with which a square batch has at least as many tokens as there are queries."""
        shapes = self.backbone.output_shape()
        strides = [shapes[name].stride for name in self.neck.in_features]
        strides += [strides[-1] * 2 ** (level + 1) for level in range(len(self.neck.extra_convs))]
        divisor = max(padding_rule(self.backbone)[0], 1)
        side = divisor
        while sum((-(-side // stride)) ** 2 for stride in strides) < self.transformer.query_selection.num_queries:
            side += divisor
        return side

    def targets(self, batched_inputs: list[dict[str, Any]]) -> list[Target]:
        """The targets of a batch, one per image.

        Raises:
            UserError: an image has no ``instances``; for an image without objects they must be empty.
        """
        if missing := [inputs.get("file_name", "?") for inputs in batched_inputs if "instances" not in inputs]:
            raise UserError(f"DINO: in training every image needs 'instances', got none for {missing}; call model.eval()?")
        return [target_of(inputs["instances"], self.pixel_mean) for inputs in batched_inputs]

    def predict(self, images: ImageList, denoising: DenoisingQueries | None = None) -> TransformerOutput:
        """Compute the predictions for a padded batch.

        Raises:
            UserError: the call is recorded by ``torch.jit.trace``.
        """
        sizes = torch.tensor([(int(height), int(width)) for height, width in images.image_sizes], device=self.device)
        return self._predict(images.tensor, sizes, denoising)

    def _predict(self, batch: Tensor, sizes: Tensor, denoising: DenoisingQueries | None = None) -> TransformerOutput:
        """:meth:`predict` for a padded batch (N, C, H, W) of images of (N, 2) ``sizes`` (height, width)."""
        if torch.jit.is_tracing() and not _is_inspected():
            raise UserError(
                "DINO: torch.jit.trace would keep the sizes of this image in the graph and give wrong boxes for images of any "
                "other size; use torch.compile(model), or torch.export.export with flash_internimage.export.exportable_detector"
            )
        levels = self.neck(self.backbone(batch))  # (N, C, H, W) each
        padded = padding_mask(sizes, batch.shape[-2:])  # (N, H, W)
        masks = [resize_mask(padded, level.shape[-2:]) for level in levels]
        positions = [self.position_encoding(mask, batch.dtype) for mask in masks]
        return self.transformer(levels, masks, positions, denoising)


def _is_inspected() -> bool:
    """Whether a graph is recorded to be inspected, as fvcore does to count FLOPs, and not to be run."""
    return any(frame.f_code.co_name == "_get_trace_graph" for frame, _ in traceback.walk_stack(None))


def best_pairs(logits: Tensor, boxes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The (query, class) pairs of each image with the highest scores; a query may be detected as several classes.

    Args:
        logits: (N, Q, K).
        boxes: (N, Q, 4) as (cx, cy, w, h), relative to the image.
        count: number of pairs D; all pairs if there are fewer.

    Returns:
        (N, D) scores in descending order, (N, D) classes and (N, D, 4) boxes as (x1, y1, x2, y2), relative to the image.
    """
    num_classes = logits.shape[2]
    scores, pairs = logits.sigmoid().flatten(1).topk(min(count, logits.shape[1] * num_classes), dim=1)
    queries = (pairs // num_classes)[..., None].expand(-1, -1, 4)
    return scores, pairs % num_classes, to_corners(boxes.gather(1, queries))


def detect(logits: Tensor, boxes: Tensor, image_sizes: Sequence[tuple[int, int]], detections_per_image: int) -> list[Instances]:
    """The results of :func:`best_pairs` with boxes in pixels of images of ``image_sizes`` (height, width)."""
    results = []
    for image_scores, classes, corners, (height, width) in zip(
        *best_pairs(logits, boxes, detections_per_image), image_sizes, strict=True
    ):
        instances = Instances((height, width))
        instances.pred_boxes = PreciseBoxes(
            clip_boxes(corners * corners.new_tensor([width, height, width, height]), (height, width))
        )
        instances.scores = image_scores
        instances.pred_classes = classes
        results.append(instances)
    return results


def rescale(instances: Instances, height: int | None, width: int | None) -> Instances:
    """Scale detections to another size of the same image.

    Unlike detectron2's ``detector_postprocess``, this keeps the dtype and keeps boxes without area.
    """
    old_height, old_width = instances.image_size
    height, width = old_height if height is None else height, old_width if width is None else width
    boxes = instances.pred_boxes.tensor
    boxes = boxes * boxes.new_tensor([width / old_width, height / old_height] * 2)
    return Instances(
        (height, width),
        pred_boxes=PreciseBoxes(clip_boxes(boxes, (height, width))),
        scores=instances.scores,
        pred_classes=instances.pred_classes,
    )
