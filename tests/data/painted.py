"""Images whose pixels show which object they belong to."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import strategies as st

from flash_internimage.data.samples import Sample, windows_of
from flash_internimage.structures import WindowMasks


def paint(height: int, width: int, boxes: list[tuple[int, int, int, int]], first_class: int, with_masks: bool = True) -> Sample:
    """Draw rectangles that do not overlap on a black image; the red channel of a rectangle is its class, from 1.

    Args:
        boxes: XYXY in pixels.
        first_class: class of the first rectangle; those of the others follow.
    """
    image = np.zeros((height, width, 3), dtype=np.uint8)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(first_class, first_class + len(boxes))
    for class_, (x0, y0, x1, y1) in enumerate(boxes, start=first_class):
        image[y0:y1, x0:x1, 0] = class_
    if with_masks:
        parts = [np.ones((y1 - y0, x1 - x0), dtype=bool) for x0, y0, x1, y1 in boxes]
        instances.gt_masks = WindowMasks.from_parts(parts, [(x0, y0) for x0, y0, _, _ in boxes], (height, width))
    return Sample(image, instances)


@st.composite
def painted(draw: st.DrawFn, first_class: int = 1) -> Sample:
    """Images of 4 to 40 pixels a side with up to three rectangles side by side."""
    height, width = draw(st.integers(4, 40)), draw(st.integers(4, 40))
    edges = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=4, unique=True)))
    boxes = []
    for x0, x1 in itertools.pairwise(edges):
        y0 = draw(st.integers(0, height - 1))
        boxes.append((x0, y0, x1, draw(st.integers(y0 + 1, height))))
    return paint(height, width, boxes, first_class)


def check_aligned(sample: Sample, *, is_tight: bool = True) -> None:
    """Assert that masks, boxes and pixels agree.

    Args:
        is_tight: whether every box is the tight box of its mask, as it is for rectangles that were only cropped.
    """
    instances, (height, width) = sample.instances, sample.size
    assert instances.image_size == (height, width)
    assert len(instances.gt_masks) == len(instances.gt_boxes) == len(instances.gt_classes)
    shown = sample.image[:, :, 0]
    boxes = instances.gt_boxes.tensor.numpy()
    for class_, box, mask in zip(instances.gt_classes.tolist(), boxes, instances.gt_masks.tensor.numpy(), strict=True):
        assert ((shown == class_) == mask).all(), f"object {class_}"
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if is_tight:
            tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert np.abs(box - tight).max() < 1e-4, f"object {class_}"  # Albumentations divides boxes by the image size
    for bitmap, (x0, y0, x1, y1) in windows_of(instances.gt_masks):
        assert bitmap.shape == (y1 - y0, x1 - x0)
        assert 0 <= x0 <= x1 <= width
        assert 0 <= y0 <= y1 <= height
    assert set(np.unique(shown)) - {0, 114} <= set(instances.gt_classes.tolist()), "every object that is shown is listed"
