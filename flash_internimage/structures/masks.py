"""Ground-truth masks shared by many boxes, and their crops as targets of a mask head."""

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
    """Crop one mask per box and resize the crop to ``size`` x ``size``.

    A mask is padded with zeros like its image, to a multiple of ``size_divisibility``; RoIAlign replicates the last row and
    column beyond that. Both affect the targets of boxes that touch the border of an image.

    Args:
        masks: (M, H, W) boolean bitmaps.
        index: (R,) index of the bitmap of each box.
        boxes: (R, 4) XYXY boxes in pixels of the bitmaps.
        size: side length of a crop, in pixels.
        size_divisibility: divisor of the padded image sizes.

    Returns:
        (R, size, size) boolean: true where a pixel is covered by at least one half.
    """
    height, width = masks.shape[-2:]
    padding = (0, -width % size_divisibility, 0, -height % size_divisibility)
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(F.pad(masks, padding)[:, None].to(boxes.dtype), rois, size, aligned=True)
    return crops[:, 0] >= 0.5


class SharedMasks:
    """Masks of R boxes, stored as indices into M shared bitmaps.

    Replaces a ``BitMasks`` of R bitmaps as the field ``gt_masks`` of sampled proposals. Indexing it copies no bitmaps
    (those of 512 proposals on one COCO image would take half a gigabyte), and crops are computed in the precision of the
    boxes.

    Args:
        masks: M masks.
        index: (R,) index of the bitmap of each box.
        size_divisibility: see :func:`crop_masks`.

    Raises:
        UserError: ``masks`` are polygons, which would be rasterized to different pixels.
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
        """Crop the masks to the (R, 4) boxes: (R, mask_size, mask_size) boolean."""
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
