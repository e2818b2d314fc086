"""Bitmaps of many small objects, stored within the windows that the objects occupy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.nn.functional as F
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

    @classmethod
    def from_bitmaps(cls, bitmaps: Tensor, window: tuple[int, int, int, int], image_size: tuple[int, int]) -> WindowMasks:
        """Store bitmaps of a window of an image, each within the smallest window that it occupies.

        Args:
            bitmaps: (N, h, w) boolean; if h and w are not the size of the window, the masks are scaled to it.
            window: ``(x0, y0, x1, y1)`` in pixels of the image; x1 and y1 exclusive.
            image_size: ``(height, width)`` of the image in pixels.
        """
        left, top, right, bottom = window
        scale = np.array([(right - left) / max(bitmaps.shape[2], 1), (bottom - top) / max(bitmaps.shape[1], 1)])
        parts, corners = [], []
        for bitmap in bitmaps.cpu().numpy():
            rows, columns = (_occupied(bitmap.any(axis=axis)) for axis in (1, 0))
            start = np.rint(scale * (columns.start, rows.start)).astype(int)
            width, height = np.rint(scale * (columns.stop, rows.stop)).astype(int) - start
            parts.append(_scaled(bitmap[rows, columns], height, width))
            corners.append((left + int(start[0]), top + int(start[1])))
        return cls.from_parts(parts, corners, image_size)

    @classmethod
    def cat(cls, masks: Sequence[WindowMasks]) -> WindowMasks:
        """Concatenate masks of one image; at least one."""
        offsets = np.cumsum([0, *(len(part.pixels) for part in masks[:-1])])
        shifts = [part.windows.new_tensor([0, 0, 0, 0, offset]) for part, offset in zip(masks, offsets.tolist(), strict=True)]
        windows = torch.cat([part.windows + shift for part, shift in zip(masks, shifts, strict=True)])
        return cls(torch.cat([part.pixels for part in masks]), windows, masks[0].image_size)

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

    def cpu(self) -> WindowMasks:
        return self.to("cpu")

    def numpy(self) -> np.ndarray:
        """Return (N, H, W) boolean bitmaps of the whole image: height x width bytes for each object.

        With ``cpu``, this is all that supervision calls on masks. For a large image with many objects, raise the ``min_score``
        of the :class:`~flash_internimage.Predictor`, or call ``instances.remove("pred_masks")`` if boxes are enough.
        """
        return self.tensor.numpy()

    def bitmaps(self, index: Sequence[int]) -> Tensor:
        """Return (len(index), H, W) ``bool`` bitmaps of the whole image."""
        result = torch.zeros((len(index), *self.image_size), dtype=torch.bool, device=self.device)
        for bitmap, (x0, y0, x1, y1, start) in zip(result, self.windows[list(index)].tolist(), strict=True):
            height, width = y1 - y0, x1 - x0
            bitmap[y0:y1, x0:x1] = self.pixels[start : start + height * width].view(height, width)
        return result

    def compact(self) -> WindowMasks:
        """The same masks without the pixels of others, which indexing keeps."""
        parts = self.parts()
        return WindowMasks.from_parts([part for part, _ in parts], [corner for _, corner in parts], self.image_size)

    def run_lengths(self) -> list[dict[str, Any]]:
        """Return COCO's compressed run-length encoding of each mask, with ``counts`` as text; no bitmap is allocated."""
        return [_run_lengths(part, corner, self.image_size) for part, corner in self.parts()]

    def parts(self) -> list[tuple[np.ndarray, tuple[int, int]]]:
        """Return the (h, w) boolean array of each window, without a copy of its pixels, and its corner ``(x0, y0)``."""
        pixels = self.pixels.cpu().numpy()
        return [
            (pixels[start : start + (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0), (x0, y0))
            for x0, y0, x1, y1, start in self.windows.tolist()
        ]

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


def _occupied(flags: np.ndarray) -> slice:
    """The range from the first to the last true value; empty without one."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def _scaled(part: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale a boolean array; its outline is interpolated."""
    if part.shape == (height, width):
        return part
    if 0 in (*part.shape, height, width):
        return np.zeros((height, width), dtype=bool)
    values = torch.from_numpy(part)[None, None].float()
    return np.asarray(F.interpolate(values, size=(height, width), mode="bilinear", align_corners=False)[0, 0] >= 0.5)


def _run_lengths(part: np.ndarray, corner: tuple[int, int], image_size: tuple[int, int]) -> dict[str, Any]:
    """Encode one window as the mask of its whole image."""
    height, width = image_size
    x0, y0 = corner
    # COCO's runs go down the columns. A row of zeros above and below separates the runs of neighboring columns.
    edges = np.diff(np.pad(part.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    columns, starts = np.nonzero(edges.T == 1)
    _, ends = np.nonzero(edges.T == -1)
    first = (columns + x0) * height + y0
    # Runs of length zero between columns that are filled from top to bottom are valid.
    changes = np.stack([first + starts, first + ends], axis=1).reshape(-1)
    counts = np.diff(np.concatenate([[0], changes, [height * width]]))
    rle: dict[str, Any] = mask_util.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": list(image_size), "counts": rle["counts"].decode("ascii")}
