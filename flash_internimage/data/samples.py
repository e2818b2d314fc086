"""Resizing, cropping and combining images with their objects (``Instances``); boxes and masks stay aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.structures import WindowMasks

from .resize import resize_bilinear, resize_nearest


class Sample(NamedTuple):
    """An image, (H, W, 3) ``uint8`` RGB, and its objects: ``gt_boxes`` (XYXY absolute pixels), ``gt_classes``, ``gt_masks``.

    ``gt_masks`` (``WindowMasks``) is absent if the objects have boxes only.
    """

    image: np.ndarray
    instances: Instances

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self.image.shape[0], self.image.shape[1]


def resize_sample(sample: Sample, height: int, width: int) -> Sample:
    """Resize an image (bilinear) and its objects (masks by nearest neighbor)."""
    if sample.size == (height, width):
        return sample
    rows = resize_nearest(np.arange(sample.size[0])[:, None], height, 1)[:, 0]
    columns = resize_nearest(np.arange(sample.size[1])[None], 1, width)[0]
    scale = np.array([width / sample.size[1], height / sample.size[0]] * 2)
    image = resize_bilinear(sample.image, height, width)
    return _with_objects(sample, image, sample.instances.gt_boxes.tensor.numpy() * scale, rows, columns, min_visible=0.0)


def crop_sample(sample: Sample, window: tuple[int, int, int, int], min_visible: float = 0.0) -> Sample:
    """Crop an image and its objects.

    Args:
        window: x0, y0, x1 and y1 in pixels, inside the image; x1 and y1 are exclusive.
        min_visible: fraction of the area of its box that an object must keep; objects outside the window are always dropped.
    """
    x0, y0, x1, y1 = window
    boxes = sample.instances.gt_boxes.tensor.numpy() - np.array([x0, y0, x0, y0])
    image = sample.image[y0:y1, x0:x1]
    return _with_objects(sample, image, boxes, np.arange(y0, y1), np.arange(x0, x1), min_visible)


def _with_objects(
    sample: Sample, image: np.ndarray, boxes: np.ndarray, rows: np.ndarray, columns: np.ndarray, min_visible: float
) -> Sample:
    """Return an image that consists of rows and columns of another, with the objects that are visible in it.

    Args:
        boxes: the boxes in pixels of the new image, not clipped.
        rows: row of the old mask that each row of the new mask shows, ascending.
        columns: the same for columns.
    """
    height, width = image.shape[:2]
    clipped = boxes.clip(0, [width, height, width, height])
    sides, old_sides = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    is_kept = (sides > 0).all(axis=1) & (sides.prod(axis=1) >= min_visible * old_sides.prod(axis=1))
    kept = np.flatnonzero(is_kept)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.from_numpy(clipped[kept]).float())
    instances.gt_classes = sample.instances.gt_classes[torch.from_numpy(kept)]
    if sample.instances.has("gt_masks"):
        parts, corners = [], []
        windows = windows_of(sample.instances.gt_masks)
        for bitmap, (x0, y0, x1, y1) in (windows[i] for i in kept.tolist()):
            top, bottom = np.searchsorted(rows, [y0, y1])
            left, right = np.searchsorted(columns, [x0, x1])
            parts.append(bitmap[np.ix_(rows[top:bottom] - y0, columns[left:right] - x0)])
            corners.append((int(left), int(top)))
        instances.gt_masks = WindowMasks.from_parts(parts, corners, (height, width))
    return Sample(image, instances)


def windows_of(masks: WindowMasks) -> list[tuple[np.ndarray, tuple[int, int, int, int]]]:
    """Return the bitmap of each window, and its x0, y0, x1 and y1 (exclusive) in pixels of the image."""
    pixels = masks.pixels.numpy()
    found = []
    for x0, y0, x1, y1, start in masks.windows.tolist():
        bitmap = pixels[start : start + (y1 - y0) * (x1 - x0)].reshape(y1 - y0, x1 - x0)
        found.append((bitmap, (x0, y0, x1, y1)))
    return found


def place_instances(instances: Instances, x: int, y: int, size: tuple[int, int]) -> Instances:
    """Move objects onto a larger canvas.

    Args:
        x: column of the canvas at which their image starts.
        y: row of the canvas at which their image starts.
        size: ``(height, width)`` of the canvas, which contains the image.
    """
    placed = Instances(size)
    placed.gt_boxes = Boxes(instances.gt_boxes.tensor + torch.tensor([x, y, x, y]))
    placed.gt_classes = instances.gt_classes
    if instances.has("gt_masks"):
        masks = instances.gt_masks
        placed.gt_masks = WindowMasks(masks.pixels, masks.windows + torch.tensor([x, y, x, y, 0]), size)
    return placed


def join_instances(parts: Sequence[Instances]) -> Instances:
    """Concatenate the objects of several images of the same size."""
    joined = Instances(parts[0].image_size)
    joined.gt_boxes = Boxes.cat([part.gt_boxes for part in parts])
    joined.gt_classes = torch.cat([part.gt_classes for part in parts])
    if parts[0].has("gt_masks"):
        found = [window for part in parts for window in windows_of(part.gt_masks)]
        bitmaps, corners = [bitmap for bitmap, _ in found], [(x0, y0) for _, (x0, y0, _, _) in found]
        joined.gt_masks = WindowMasks.from_parts(bitmaps, corners, parts[0].image_size)
    return joined
