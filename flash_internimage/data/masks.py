"""Segmentations of dataset dicts, rasterized and transformed like their images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data.transforms import CropTransform, HFlipTransform, NoOpTransform, TransformList, VFlipTransform

from flash_internimage.structures import WindowMasks

from .augmentations import ColorTransform, ExactResizeTransform
from .resize import resize_nearest
from .run_lengths import RunsOfOnes, require_valid_masks


def segmentations_to_rles(segmentations: Sequence[list | dict], height: int, width: int) -> list[dict]:
    """Convert COCO polygons or RLEs to pycocotools' RLEs of (height, width) masks.

    Raises:
        UserError: an RLE is not one of a (height, width) mask.
    """
    sizes = [(height, width)] * len(segmentations)
    require_valid_masks(segmentations, sizes, f"object {{}} of an image of {width} x {height} pixels".format)
    return [_to_rle(segmentation, height, width) for segmentation in segmentations]


def _to_rle(segmentation: list | dict, height: int, width: int) -> dict:
    if isinstance(segmentation, list):
        rles = mask_util.frPyObjects(segmentation, height, width)
        return rles[0] if len(rles) == 1 else mask_util.merge(rles)
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def segmentation_to_mask(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """Rasterize COCO polygons, or decode an RLE, to a (height, width) ``uint8`` mask of zeros and ones."""
    return mask_util.decode(segmentations_to_rles([segmentation], height, width)[0])


def transform_masks(
    segmentations: Sequence[list | dict], transforms: TransformList, size: tuple[int, int], new_size: tuple[int, int]
) -> WindowMasks:
    """Rasterize segmentations and apply an image's transforms to the masks, within the windows of the objects.

    Args:
        segmentations: COCO polygons or RLE of each object.
        transforms: transforms that were applied to the image.
        size: ``(height, width)`` of the original image, in pixels.
        new_size: ``(height, width)`` of the transformed image, in pixels.
    """
    maps = _gather_maps(transforms, *size)
    if maps is not None:
        return _gather(segmentations_to_rles(segmentations, *size), *maps, size[0], new_size)
    parts = [WindowMasks.from_parts([], [], new_size)]
    whole = (0, 0, new_size[1], new_size[0])
    for segmentation in segmentations:  # one by one: bitmaps of all objects would take much memory
        bitmap = np.asarray(transforms.apply_segmentation(segmentation_to_mask(segmentation, *size))) != 0
        parts.append(WindowMasks.from_bitmaps(torch.from_numpy(bitmap[None]), whole, new_size))
    return WindowMasks.cat(parts)


def _gather_maps(transforms: TransformList, height: int, width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the row and the column of the original mask that each row and column of the transformed mask shows.

    Both are ascending or descending. None if a transform is not known to move whole rows and columns of a mask.
    """
    rows, columns = np.arange(height), np.arange(width)
    for transform in transforms.transforms:
        if type(transform) is ExactResizeTransform:
            rows = resize_nearest(rows[:, None], transform.new_height, 1)[:, 0]
            columns = resize_nearest(columns[None], 1, transform.new_width)[0]
        elif type(transform) is HFlipTransform:
            columns = columns[::-1]
        elif type(transform) is VFlipTransform:
            rows = rows[::-1]
        elif type(transform) is CropTransform:
            rows = rows[transform.y0 : transform.y0 + transform.h]
            columns = columns[transform.x0 : transform.x0 + transform.w]
        elif type(transform) not in (NoOpTransform, ColorTransform):
            return None
    return rows, columns


def _gather(rles: Sequence[dict], rows: np.ndarray, columns: np.ndarray, height: int, new_size: tuple[int, int]) -> WindowMasks:
    """Return masks that show the given rows and columns of run-length encoded masks of the given height."""
    runs = RunsOfOnes.of([rle["counts"] for rle in rles])
    old = runs.windows(height)
    x0, x1 = _ranges(columns, old[:, 0], old[:, 2])
    y0, y1 = _ranges(rows, old[:, 1], old[:, 3])
    ends = np.cumsum((x1 - x0) * (y1 - y0))
    windows = np.stack([x0, y0, x1, y1, ends - (x1 - x0) * (y1 - y0)], axis=1)
    pixels = np.empty(ends[-1] if len(ends) else 0, dtype=np.uint8)
    for bitmap, (left, top), (x0, y0, x1, y1, start) in zip(
        runs.bitmaps(old, height), old[:, :2].tolist(), windows.tolist(), strict=True
    ):
        if x1 > x0 and y1 > y0:
            # Bitmaps are stored by columns, and masks by rows. Like this, both gathers copy contiguous memory, and only a
            # transposition, for which OpenCV has fast code, moves single pixels.
            chosen = cv2.transpose(bitmap.take(columns[x0:x1] - left, axis=0))
            to = pixels[start : start + (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0)
            chosen.take(rows[y0:y1] - top, axis=0, out=to, mode="clip")  # other modes copy `to`
    return WindowMasks(torch.from_numpy(pixels.view(bool)), torch.from_numpy(windows), new_size)


def _ranges(positions: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ranges of indices at which ``positions`` are in ``starts..ends - 1``; (0, 0) if there are none.

    Args:
        positions: ascending or descending.
        starts: (N,).
        ends: (N,).
    """
    if len(positions) and positions[0] > positions[-1]:
        last, first = (len(positions) - np.searchsorted(positions[::-1], limits) for limits in (starts, ends))
    else:
        first, last = (np.searchsorted(positions, limits) for limits in (starts, ends))
    is_empty = first >= last
    return np.where(is_empty, 0, first), np.where(is_empty, 0, last)
