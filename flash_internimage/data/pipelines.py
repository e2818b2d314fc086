"""Augmentation pipelines of torchvision and Albumentations for the training mapper.

In a config::

    from torchvision.transforms import v2
    from flash_internimage.data import TorchvisionPipeline

    dataloader.train.mapper.pipeline = L(TorchvisionPipeline)(transforms=[L(v2.RandomPerspective)(distortion_scale=0.2)])

The pipeline follows the mapper's own augmentations, which resize the image. Objects that it moves out of the image are dropped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.errors import UserError
from flash_internimage.structures import WindowMasks

from .samples import Sample


class TorchvisionPipeline:
    """Applies transforms of ``torchvision.transforms.v2`` to images, boxes and masks.

    They draw from torch's global generator, which the training stream seeds for every sample.

    Args:
        transforms: transforms, applied in order. The result must be a ``uint8`` RGB image.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample) -> Sample:
        from torchvision import tv_tensors

        instances = sample.instances
        boxes = instances.gt_boxes.tensor
        # The labels are the numbers of the objects: SanitizeBoundingBoxes drops objects, and their labels with them.
        values: dict[str, Any] = {
            "image": tv_tensors.Image(np.ascontiguousarray(sample.image.transpose(2, 0, 1))),
            "boxes": tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=sample.size),
            "labels": torch.arange(len(boxes)),
        }
        if instances.has("gt_masks"):
            values["masks"] = tv_tensors.Mask(instances.gt_masks.tensor.to(torch.uint8))
        for transform in self.transforms:
            values = transform(values)
        image = values["image"]
        if not (isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3):
            got = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, torch.Tensor) else type(image).__name__
            raise UserError(
                f"TorchvisionPipeline: expected the transforms to return a uint8 image of shape (3, H, W), got {got}; "
                "leave out transforms that convert or normalize the image, which the model does itself"
            )
        numbers = values["labels"].numpy()
        masks = values["masks"].numpy() if "masks" in values else None
        return _to_sample(image.numpy().transpose(1, 2, 0), values["boxes"].numpy(), numbers, masks, instances)


class AlbumentationsPipeline:
    """Applies transforms of Albumentations to images, boxes and masks.

    The random numbers of a sample are determined by numpy's global generator, which the training stream seeds.

    Args:
        transforms: transforms, applied in order. The result must be a ``uint8`` RGB image.

    Raises:
        UserError: Albumentations is not installed.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]]) -> None:
        try:
            albumentations = importlib.import_module("albumentations")
        except ImportError as error:
            raise UserError(
                f"AlbumentationsPipeline: expected the package albumentations, got: {error}; pip install albumentations"
            ) from error
        boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["numbers"])
        self.compose = albumentations.Compose(list(transforms), bbox_params=boxes)

    def __call__(self, sample: Sample) -> Sample:
        instances = sample.instances
        boxes = instances.gt_boxes.tensor.numpy()
        values: dict[str, Any] = {
            "image": np.ascontiguousarray(sample.image),
            "bboxes": boxes,
            "numbers": np.arange(len(boxes)),
        }
        has_masks = instances.has("gt_masks") and len(boxes) > 0
        if has_masks:
            values["masks"] = instances.gt_masks.tensor.numpy().astype(np.uint8)
        self.compose.set_random_seed(int(np.random.randint(2**31)))
        values = self.compose(**values)
        image = values["image"]
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            got = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
            raise UserError(
                f"AlbumentationsPipeline: expected the transforms to return a uint8 image of shape (H, W, 3), got {got}; "
                "leave out transforms that convert or normalize the image, which the model does itself"
            )
        numbers = np.asarray(values["numbers"], dtype=np.int64)
        found = np.asarray(values["bboxes"], dtype=np.float32).reshape(-1, 4)
        # Masks of dropped objects are returned too.
        masks = np.asarray(values["masks"])[numbers] if has_masks else None
        if masks is None and instances.has("gt_masks"):
            masks = np.zeros((0, *image.shape[:2]), dtype=np.uint8)
        return _to_sample(image, found, numbers, masks, instances)


def _to_sample(
    image: np.ndarray, boxes: np.ndarray, numbers: np.ndarray, masks: np.ndarray | None, instances: Instances
) -> Sample:
    """Return a sample with the objects that are inside an image.

    Args:
        image: (H, W, 3).
        boxes: (N, 4), XYXY in absolute pixels, not clipped.
        numbers: (N,) the index in ``instances`` of each object.
        masks: (N, H, W); None for objects with boxes only.
        instances: the objects before the transforms.
    """
    height, width = image.shape[:2]
    boxes = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
    kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    found = Instances((height, width))
    found.gt_boxes = Boxes(torch.from_numpy(boxes[kept]).float())
    found.gt_classes = instances.gt_classes[torch.from_numpy(numbers[kept])]
    if masks is not None:
        parts = [masks[i] != 0 for i in kept]
        found.gt_masks = WindowMasks.from_parts(parts, [(0, 0)] * len(parts), (height, width))
    return Sample(np.ascontiguousarray(image), found)
