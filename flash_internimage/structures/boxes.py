"""Boxes in double precision, and functions of (..., 4) box tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor


class PreciseBoxes(Boxes):
    """``detectron2.structures.Boxes`` that keeps float64 coordinates.

    ``Boxes`` converts its coordinates to float32, at construction and at every copy, so that a model in double precision
    would pool features from rounded boxes. This class converts all other dtypes to float32, as ``Boxes`` does.

    Args:
        tensor: (R, 4) XYXY boxes in absolute pixels.
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor)
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            self.tensor = tensor.reshape(-1, 4)

    def clone(self) -> PreciseBoxes:
        return PreciseBoxes(self.tensor.clone())

    def to(self, device: torch.device) -> PreciseBoxes:
        return PreciseBoxes(self.tensor.to(device=device))

    def __getitem__(self, item: int | slice | Tensor) -> PreciseBoxes:
        return PreciseBoxes(self.tensor[item].reshape(-1, 4))

    @classmethod
    def cat(cls, boxes_list: Sequence[Boxes]) -> PreciseBoxes:
        if len(boxes_list) == 0:
            return cls(torch.empty(0, 4))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list]))


def clip_boxes(boxes: Tensor, image_size: tuple[int, int] | Tensor) -> Tensor:
    """Clip boxes to an image, or the boxes of a batch to their images.

    Args:
        boxes: (..., 4) XYXY boxes in absolute pixels.
        image_size: (height, width) in pixels, without padding. A tensor (2,), or (N, 2) for boxes (N, R, 4), is used on
            its device, without synchronization.

    Returns:
        A new tensor of the same shape, with x in 0..width and y in 0..height. NaN stays NaN.
    """
    if isinstance(image_size, Tensor):
        y_end, x_end = image_size.to(boxes.dtype)[..., None, :].split(1, dim=-1)
        x = boxes[..., 0::2].clamp(min=0).minimum(x_end)
        y = boxes[..., 1::2].clamp(min=0).minimum(y_end)
    else:
        height, width = image_size
        x = boxes[..., 0::2].clamp(0, width)
        y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def generalized_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalized intersection over union, element by element.

    Leading dimensions broadcast: ``generalized_iou(a[:, None], b[None])`` compares all pairs. The losses are one minus this.
    fvcore's loss adds a constant to every area, and fails an assertion on NaN, where a NaN loss is more informative.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630.

    Args:
        boxes1, boxes2: (..., 4) XYXY in absolute pixels.
        eps: lower bound of the areas of union and enclosing box, in square pixels: two boxes without area give 0, not NaN.

    Returns:
        (...), in -1..1 for boxes whose sides are not negative.
    """
    intersection = _area(
        (torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - torch.maximum(boxes1[..., :2], boxes2[..., :2])).clamp(min=0)
    )
    # Without clamp, whose gradient at a side of exactly 0 would be 0.
    union = _area(boxes1[..., 2:] - boxes1[..., :2]) + _area(boxes2[..., 2:] - boxes2[..., :2]) - intersection
    enclosure = _area(torch.maximum(boxes1[..., 2:], boxes2[..., 2:]) - torch.minimum(boxes1[..., :2], boxes2[..., :2]))
    union, enclosure = union.clamp(min=eps), enclosure.clamp(min=eps)
    return intersection / union - (enclosure - union) / enclosure


def _area(sizes: Tensor) -> Tensor:
    # Not prod(), whose gradient takes a slow path where a side is zero.
    return sizes[..., 0] * sizes[..., 1]
