"""Box regression deltas: the shift of the center and the log ratios of the sides of a box relative to a reference box.

Source: Girshick et al., "Rich feature hierarchies", 2014, appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flash_internimage.errors import UserError

# MMDetection clamps the ratio of a decoded side to the reference side to between 16 / 1000 and 1000 / 16.
LARGEST_LOG_RATIO = math.log(1000 / 16)


def encode_boxes(references: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Compute the deltas that turn ``references`` into ``targets``.

    Args:
        references: (R, 4) XYXY boxes with positive width and height.
        targets: (R, 4) XYXY boxes with positive width and height.
        stds: standard deviations (dx, dy, dw, dh) that the deltas are divided by.

    Returns:
        (R, 4) deltas (dx, dy, dw, dh).
    """
    centers, sizes = _centers_and_sizes(references)
    target_centers, target_sizes = _centers_and_sizes(targets)
    deltas = torch.cat([(target_centers - centers) / sizes, torch.log(target_sizes / sizes)], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode_boxes(references: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Apply deltas to boxes.

    The result has the wider of the two dtypes, so that half-precision deltas do not round the boxes.

    Args:
        references: (R, 4) XYXY boxes.
        deltas: (R, 4) deltas (dx, dy, dw, dh), or (R, K * 4) with four per class.
        stds: standard deviations (dx, dy, dw, dh) that the deltas are multiplied by.

    Returns:
        XYXY boxes in the shape of ``deltas``, not clipped to the image.
    """
    centers, sizes = _centers_and_sizes(references[:, None])
    deltas = deltas.to(torch.promote_types(deltas.dtype, references.dtype))
    shape = deltas.shape
    deltas = deltas.unflatten(1, (-1, 4)) * deltas.new_tensor(stds)
    new_centers = centers + deltas[..., :2] * sizes
    new_sizes = sizes * deltas[..., 2:].clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    return torch.cat([new_centers - new_sizes * 0.5, new_centers + new_sizes * 0.5], dim=-1).reshape(shape)


class BoxTransform:
    """Encodes and decodes box deltas with fixed standard deviations.

    Replaces detectron2's ``Box2BoxTransform`` and has its method names. MMDetection also limits how far a box can shrink,
    not only how far it can grow; and detectron2's class always computes in float32.

    Args:
        stds: standard deviations of (dx, dy, dw, dh), by which the deltas are normalized.

    Raises:
        UserError: ``stds`` are not four positive numbers.
    """

    def __init__(self, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        self.stds = tuple(float(std) for std in stds)
        if len(self.stds) != 4 or min(self.stds) <= 0:
            raise UserError(f"BoxTransform: stds must be four positive numbers (dx, dy, dw, dh), got {self.stds}")

    @property
    def weights(self) -> tuple[float, ...]:
        """Reciprocals of ``stds``: the attribute of detectron2's ``Box2BoxTransform``."""
        return tuple(1 / std for std in self.stds)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """See :func:`encode_boxes`."""
        return encode_boxes(src_boxes, target_boxes, self.stds)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """See :func:`decode_boxes`."""
        return decode_boxes(boxes, deltas, self.stds)


def _centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centers (..., 2) and sizes (..., 2) as (width, height) of (..., 4) XYXY boxes."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return (top_left + bottom_right) * 0.5, bottom_right - top_left
