"""Bitmaps of many small objects, stored within the windows that the objects occupy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks
from torch import Tensor


class WindowMasks:
    """Masks of N objects of one image, each stored within a window outside of which it is zero.

    It replaces ``BitMasks`` as field ``gt_masks`` of training samples: whole-image bitmaps of 1000 small objects would take a
    gigabyte. All windows share one tensor, so that indexing copies no pixels, and a sample goes from a loader process to the
    training process as two tensors.

    Args:
        pixels: one-dimensional ``bool`` tensor with the rows of each window.
        windows: (N, 5) ``int64`` tensor on the CPU: x0, y0, x1 and y1 of each window in pixels of the image (x1 and y1
            exclusive), and the index of its first pixel in ``pixels``.
        image_size: ``(height, width)`` of the image in pixels.
    """

    def __init__(self, pixels: Tensor, windows: Tensor, image_size: tuple[int, int]) -> None:
        self.pixels = pixels
        self.windows = windows
        self.image_size = image_size

    @classmethod
    def from_parts(cls, parts: Sequence[np.ndarray], corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> WindowMasks:
        """Build the masks from their windows.

        Args:
            parts: (h, w) boolean array of each window.
            corners: ``(x0, y0)`` of each window.
            size: ``(height, width)`` of the image.
        """
        windows = torch.zeros((len(parts), 5), dtype=torch.int64)
        offset = 0
        for window, part, (x0, y0) in zip(windows.numpy(), parts, corners, strict=True):
            window[:] = (x0, y0, x0 + part.shape[1], y0 + part.shape[0], offset)
            offset += part.size
        pixels = np.concatenate([part.ravel() for part in parts]) if len(parts) else np.zeros(0, dtype=bool)
        return cls(torch.from_numpy(pixels), windows, size)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def tensor(self) -> Tensor:
        """(N, H, W) ``bool`` bitmaps of the whole image; a new tensor."""
        return self.bitmaps(range(len(self)))

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(len(self)):
            yield self.bitmaps([i])[0]

    def __getitem__(self, item: int | slice | Tensor) -> WindowMasks:
        item = item.cpu() if isinstance(item, Tensor) else slice(item, item + 1) if isinstance(item, int) else item
        return WindowMasks(self.pixels, self.windows[item], self.image_size)

    def to(self, *args: Any, **kwargs: Any) -> WindowMasks:
        return WindowMasks(self.pixels.to(*args, **kwargs), self.windows, self.image_size)

    def bitmaps(self, index: Sequence[int]) -> Tensor:
        """Return (len(index), H, W) ``bool`` bitmaps of the whole image."""
        result = torch.zeros((len(index), *self.image_size), dtype=torch.bool, device=self.device)
        for bitmap, (x0, y0, x1, y1, start) in zip(result, self.windows[list(index)].tolist(), strict=True):
            height, width = y1 - y0, x1 - x0
            bitmap[y0:y1, x0:x1] = self.pixels[start : start + height * width].view(height, width)
        return result

    def nonempty(self) -> Tensor:
        """Return (N,) ``bool``: whether each mask has any pixel."""
        found = [
            bool(self.pixels[start : start + (y1 - y0) * (x1 - x0)].any()) for x0, y0, x1, y1, start in self.windows.tolist()
        ]
        return torch.tensor(found, dtype=torch.bool, device=self.device)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crop the mask of each of N boxes and resize it, as ``BitMasks`` does, a few bitmaps at a time."""
        crops = [
            BitMasks(self.bitmaps([i])).crop_and_resize(box[None], mask_size) for i, box in enumerate(boxes.to(self.device))
        ]
        return torch.cat(crops) if crops else torch.zeros((0, mask_size, mask_size), dtype=torch.bool, device=self.device)
