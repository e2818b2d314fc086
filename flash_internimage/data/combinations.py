"""Augmentations that combine a training image with other images of the dataset: mosaic, MixUp and copy-paste.

They are applied after the augmentations of single images. All random numbers, including those that choose the other images,
come from numpy's global generator, which the training stream seeds for every sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.structures import WindowMasks

from .samples import Sample, crop_sample, join_instances, place_instances, resize_sample, windows_of

_GRAY = 114  # of pixels that no image covers, as in YOLOv5


class Combination(ABC):
    """Base class of augmentations that combine a training image with others, with a given probability.

    Args:
        prob: probability of the combination.

    Attributes:
        name: name in ``data.augmentation``.
        needs_masks: whether the objects must have masks, also for models that do not learn them.
    """

    name = ""
    needs_masks = False

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Return the combined image, of the same size as ``sample``, or ``sample`` itself.

        Args:
            sample: an image with its objects; not modified.
            draw: returns another, randomly chosen image.
        """
        return self.combine(sample, draw) if np.random.uniform() < self.prob else sample

    @abstractmethod
    def combine(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        """Combine the image with others."""


class Mosaic(Combination):
    """Combines four images that meet at a random point of the canvas, each scaled down at random and cropped to its quarter.

    The canvas has the size of the image itself. Source: YOLOv4 and YOLOv5.

    Args:
        prob: probability of a mosaic.
        low: minimum scale of an image.
        high: maximum scale of an image.
        min_visible: objects that keep a smaller fraction of the area of their box are dropped.
    """

    name = "mosaic"

    def __init__(self, prob: float = 0.5, low: float = 0.5, high: float = 1.0, min_visible: float = 0.1) -> None:
        super().__init__(prob)
        self.low = low
        self.high = high
        self.min_visible = min_visible

    def combine(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        height, width = sample.size
        x, y = (round(side * np.random.uniform(0.25, 0.75)) for side in (width, height))
        image = np.full_like(sample.image, _GRAY)
        parts: list[Instances] = []
        own = np.random.randint(4)  # the quarter of the image itself
        # A side of the quarter: where it starts, its length, and whether the image touches the center with its end.
        for top, rows, at_bottom in ((0, y, True), (y, height - y, False)):
            for left, columns, at_right in ((0, x, True), (x, width - x, False)):
                part = sample if len(parts) == own else draw()
                scale = np.random.uniform(self.low, self.high)
                part = resize_sample(part, *(max(round(side * scale), 1) for side in part.size))
                h, w = min(rows, part.size[0]), min(columns, part.size[1])
                x0 = part.size[1] - w if at_right else 0
                y0 = part.size[0] - h if at_bottom else 0
                part = crop_sample(part, (x0, y0, x0 + w, y0 + h), self.min_visible)
                x1, y1 = left + columns - w if at_right else left, top + rows - h if at_bottom else top
                image[y1 : y1 + h, x1 : x1 + w] = part.image
                parts.append(place_instances(part.instances, x1, y1, sample.size))
        return Sample(image, join_instances(parts))


class MixUp(Combination):
    """Replaces an image by the weighted mean of it and another image; the objects of both are kept.

    The second image is cropped to the first, or covers a part of it. Source: Zhang et al., "Bag of Freebies for Training Object
    Detection Neural Networks".

    Args:
        prob: probability of MixUp.
        alpha: parameter of the beta distribution of the weight; the larger, the closer to one half.
    """

    name = "mixup"

    def __init__(self, prob: float = 0.5, alpha: float = 32.0) -> None:
        super().__init__(prob)
        self.alpha = alpha

    def combine(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        weight = np.float32(np.random.beta(self.alpha, self.alpha))
        other, x, y = crop_to_canvas(draw(), sample.size)
        image = sample.image.copy()
        covered = image[y : y + other.size[0], x : x + other.size[1]]
        covered[:] = np.rint(weight * covered + (1 - weight) * other.image)
        return Sample(image, join_instances([sample.instances, place_instances(other.instances, x, y, sample.size)]))


class CopyPaste(Combination):
    """Pastes objects of another image, cut out along their masks.

    Hidden parts are removed from the masks of the objects behind; their boxes shrink to what is visible, and objects that are
    hidden completely are dropped. Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
    Segmentation".

    Args:
        prob: probability of pasting.
        object_prob: probability that an object of the other image is pasted; at least one is.
    """

    name = "copy_paste"
    needs_masks = True

    def __init__(self, prob: float = 0.5, object_prob: float = 0.5) -> None:
        super().__init__(prob)
        self.object_prob = object_prob

    def combine(self, sample: Sample, draw: Callable[[], Sample]) -> Sample:
        other, x, y = crop_to_canvas(draw(), sample.size)
        visible = [i for i, (bitmap, _) in enumerate(windows_of(other.instances.gt_masks)) if bitmap.any()]
        if not visible:
            return sample
        chosen = [i for i in visible if np.random.uniform() < self.object_prob] or [int(np.random.choice(visible))]
        pasted = place_instances(other.instances[torch.tensor(chosen)], x, y, sample.size)
        hidden = np.zeros(sample.size, dtype=bool)
        for bitmap, (x0, y0, x1, y1) in windows_of(pasted.gt_masks):
            hidden[y0:y1, x0:x1] |= bitmap
        image = sample.image.copy()
        inside = hidden[y : y + other.size[0], x : x + other.size[1]]
        image[y : y + other.size[0], x : x + other.size[1]][inside] = other.image[inside]
        return Sample(image, join_instances([remove_hidden(sample.instances, hidden), pasted]))


def crop_to_canvas(sample: Sample, size: tuple[int, int]) -> tuple[Sample, int, int]:
    """Place an image at random on a canvas, and crop it to the canvas.

    Along each axis, the image lies inside the canvas or, if it is larger, covers it.

    Returns:
        The cropped image, and the column and the row of the canvas at which it starts.
    """
    (height, width), (canvas_height, canvas_width) = sample.size, size
    x, y = (int(np.random.randint(min(free, 0), max(free, 0) + 1)) for free in (canvas_width - width, canvas_height - height))
    window = (max(-x, 0), max(-y, 0), min(width, canvas_width - x), min(height, canvas_height - y))
    return crop_sample(sample, window), max(x, 0), max(y, 0)


def remove_hidden(instances: Instances, hidden: np.ndarray) -> Instances:
    """Remove hidden pixels from the masks of objects, and objects that are hidden completely.

    Args:
        instances: objects with masks; not modified.
        hidden: (H, W) boolean array.
    """
    boxes = instances.gt_boxes.tensor.clone()
    kept, parts, corners = [], [], []
    for i, (bitmap, (x0, y0, x1, y1)) in enumerate(windows_of(instances.gt_masks)):
        visible = bitmap & ~hidden[y0:y1, x0:x1]
        if (visible != bitmap).any():
            rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
            if not len(rows):
                continue
            left, top, right, bottom = x0 + columns[0], y0 + rows[0], x0 + columns[-1] + 1, y0 + rows[-1] + 1
            boxes[i] = torch.tensor([left, top, right, bottom])
        kept.append(i)
        parts.append(visible)
        corners.append((x0, y0))
    remaining = Instances(instances.image_size)
    remaining.gt_boxes = Boxes(boxes[kept])
    remaining.gt_classes = instances.gt_classes[kept]
    remaining.gt_masks = WindowMasks.from_parts(parts, corners, instances.image_size)
    return remaining
