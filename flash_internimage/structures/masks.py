"""Ground-truth bitmaps for many boxes, and their crops as targets of a mask head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks
from torch import Tensor
from torchvision.ops import roi_align

from flash_internimage.errors import UserError

from .window_masks import WindowMasks

_MAX_PIXELS = 1 << 25  # of the bitmaps that are converted to floating point and cropped at once: 128 MiB in float32


def crop_masks(masks: Tensor, index: Tensor, boxes: Tensor, size: int, size_divisibility: int) -> Tensor:
    """Cut one mask for each box and resize it.

    A mask continues with zeros up to the multiple of ``size_divisibility`` that its image is padded to; at the edge of
    that, the last row and column are repeated. It matters for boxes that end at the edge of an image.

    Args:
        masks: (M, H, W) boolean bitmaps.
        index: (R,) which bitmap to cut for each box.
        boxes: (R, 4) XYXY in pixels of the bitmaps.
        size: side of the result, in cells.

    Returns:
        (R, size, size) boolean: whether a cell is at least half covered.
    """
    height, width = masks.shape[-2:]
    padding = (0, -width % size_divisibility, 0, -height % size_divisibility)
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(F.pad(masks, padding)[:, None].to(boxes.dtype), rois, size, aligned=True)
    return crops[:, 0] >= 0.5


class SharedMasks:
    """The masks of R boxes that share M bitmaps.

    It stands in for a ``BitMasks`` of R bitmaps as field ``gt_masks`` of sampled proposals, but indexing it copies no
    bitmap (512 proposals on one COCO image would be half a gigabyte) and crops are computed in the precision of the
    boxes.

    Args:
        masks: M masks.
        index: (R,) which bitmap belongs to each box.
        size_divisibility: see :func:`crop_masks`.

    Raises:
        UserError: ``masks`` are polygons, whose crops are other pixels.
    """

    def __init__(self, masks: BitMasks | WindowMasks, index: Tensor, size_divisibility: int) -> None:
        if not isinstance(masks, BitMasks | WindowMasks):
            raise UserError(
                f"mask head: gt_masks must be BitMasks, got {type(masks).__name__}; "
                "set instance_mask_format='bitmask' in the dataset mapper"
            )
        self.masks = masks
        self.index = index
        self.size_divisibility = size_divisibility

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: slice | Tensor) -> SharedMasks:
        return SharedMasks(self.masks, self.index[item], self.size_divisibility)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """(R, mask_size, mask_size) boolean crops for the (R, 4) boxes."""
        used, index = torch.unique(self.index, return_inverse=True)
        height, width = self.masks.image_size
        step = max(1, _MAX_PIXELS // max(1, height * width))
        crops = torch.zeros((len(boxes), mask_size, mask_size), dtype=torch.bool, device=boxes.device)
        for start in range(0, len(used), step):
            chunk = used[start : start + step]
            masks = self.masks
            bitmaps = masks.bitmaps(chunk.tolist()) if isinstance(masks, WindowMasks) else masks.tensor[chunk]
            rows = torch.nonzero((index >= start) & (index < start + step))[:, 0]
            crops[rows] = crop_masks(bitmaps, index[rows] - start, boxes[rows], mask_size, self.size_divisibility)
        return crops
