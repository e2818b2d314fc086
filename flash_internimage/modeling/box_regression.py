"""Box deltas: a box written relative to another as shifts of its center and logarithms of its sides.

As Girshick et al., "Rich feature hierarchies", 2014, appendix C. detectron2's ``Box2BoxTransform`` is the same up to two
points that change numbers here: it limits only growth, not shrinking, and it always computes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flash_internimage.errors import UserError

# The published models limit a side to 1000 / 16 times the reference's, and to 16 / 1000 of it.
LARGEST_LOG_RATIO = math.log(1000 / 16)


def encode_boxes(references: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Deltas that turn ``references`` into ``targets``.

    Args:
        references: (R, 4) XYXY boxes of positive width and height.
        targets: (R, 4) XYXY boxes of positive width and height.
        stds: what the deltas (dx, dy, dw, dh) are divided by.

    Returns:
        (R, 4) deltas.
    """
    centers, sizes = _centers_and_sizes(references)
    target_centers, target_sizes = _centers_and_sizes(targets)
    deltas = torch.cat([(target_centers - centers) / sizes, torch.log(target_sizes / sizes)], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode_boxes(references: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Apply deltas to boxes.

    The result is in the wider dtype of the two, so half-precision deltas cost the boxes no precision.

    Args:
        references: (R, 4) XYXY boxes.
        deltas: (R, 4), or (R, 4 * K) for K sets of deltas, class by class.
        stds: what the deltas (dx, dy, dw, dh) are multiplied by.

    Returns:
        XYXY boxes in the shape of ``deltas``; they may leave the image.
    """
    centers, sizes = _centers_and_sizes(references[:, None])
    deltas = deltas.to(torch.promote_types(deltas.dtype, references.dtype))
    shape = deltas.shape
    deltas = deltas.unflatten(1, (-1, 4)) * deltas.new_tensor(stds)
    new_centers = centers + deltas[..., :2] * sizes
    new_sizes = sizes * deltas[..., 2:].clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    return torch.cat([new_centers - new_sizes * 0.5, new_centers + new_sizes * 0.5], dim=-1).reshape(shape)


class BoxTransform:
    """The two functions above with their scales, under the method names of detectron2's ``Box2BoxTransform``.

    Args:
        stds: standard deviations of (dx, dy, dw, dh) among well-matched boxes; predicted deltas are in these units.
    """

    def __init__(self, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        self.stds = tuple(float(std) for std in stds)
        if len(self.stds) != 4 or min(self.stds) <= 0:
            raise UserError(f"BoxTransform: stds must be four positive numbers (dx, dy, dw, dh), got {self.stds}")

    @property
    def weights(self) -> tuple[float, ...]:
        """Reciprocals of ``stds``, under the name that detectron2 knows."""
        return tuple(1 / std for std in self.stds)

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """See :func:`encode_boxes`."""
        return encode_boxes(src_boxes, target_boxes, self.stds)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """See :func:`decode_boxes`."""
        return decode_boxes(boxes, deltas, self.stds)


def _centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2) centers and (width, height) of (..., 4) XYXY boxes."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return (top_left + bottom_right) * 0.5, bottom_right - top_left
