"""The augmentations of the published recipes, as detectron2 augmentations.

Draws come from numpy's global generator, as in detectron2; the training stream seeds it for every sample.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms import AugInput, Augmentation, CropTransform, Transform, TransformList

from .resize import fit_size, resize_bilinear, resize_nearest


class ExactResizeTransform(Transform):
    """Resizes an image bilinearly without antialiasing, masks to the nearest pixel, coordinates by the ratio of each axis.

    Args:
        height: height of the image before, in pixels.
        width: width of the image before, in pixels.
        new_height: height after, in pixels.
        new_width: width after, in pixels.
    """

    def __init__(self, height: int, width: int, new_height: int, new_width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width
        self.new_height = new_height
        self.new_width = new_width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return resize_bilinear(img, self.new_height, self.new_width)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return resize_nearest(segmentation, self.new_height, self.new_width)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * np.array([self.new_width / self.width, self.new_height / self.height])

    def inverse(self) -> "ExactResizeTransform":
        return ExactResizeTransform(self.new_height, self.new_width, self.height, self.width)


class ResizeToFit(Augmentation):
    """Resizes by one factor to fit a short and a long side; of several short sides one is drawn for each image.

    Args:
        short_sides: candidates for the largest length of the shorter side, in pixels.
        long_side: largest length of the longer side, in pixels.
    """

    def __init__(self, short_sides: Sequence[int], long_side: int) -> None:
        super().__init__()
        self.short_sides = tuple(short_sides)
        self.long_side = long_side

    def get_transform(self, image: np.ndarray) -> Transform:
        short_side = self.short_sides[np.random.randint(len(self.short_sides))]
        height, width = image.shape[:2]
        return ExactResizeTransform(height, width, *fit_size(height, width, short_side, self.long_side))


class ScaleJitter(Augmentation):
    """Resizes to a random multiple of the size that just fits a square, the first half of large-scale jitter.

    Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method", and ViTDet's recipe.

    Args:
        low: smallest multiple.
        high: largest multiple.
        target_side: side of the square in pixels.
    """

    def __init__(self, low: float, high: float, target_side: int) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.target_side = target_side

    def get_transform(self, image: np.ndarray) -> Transform:
        side = self.target_side * np.random.uniform(self.low, self.high)
        height, width = image.shape[:2]
        return ExactResizeTransform(height, width, *fit_size(height, width, side, side))


class CropRange(Augmentation):
    """Crops a window whose height and width are drawn independently and uniformly from ``min(side, low)..min(side, high)``.

    Both ends are included, and every position of the window is equally likely.

    Args:
        low: smallest side of the window, in pixels.
        high: largest side of the window, in pixels.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        new_height = np.random.randint(min(height, self.low), min(height, self.high) + 1)
        new_width = np.random.randint(min(width, self.low), min(width, self.high) + 1)
        top = np.random.randint(height - new_height + 1)
        left = np.random.randint(width - new_width + 1)
        return CropTransform(left, top, new_width, new_height, width, height)


class OneOf(Augmentation):
    """Applies one of several policies, each equally likely.

    Args:
        policies: lists of augmentations; the augmentations of the chosen list are applied one after the other.
    """

    def __init__(self, policies: Sequence[Sequence[Augmentation]]) -> None:
        super().__init__()
        self.policies = [list(policy) for policy in policies]

    def __call__(self, aug_input: AugInput) -> TransformList:
        policy = self.policies[np.random.randint(len(self.policies))]
        return TransformList([augmentation(aug_input) for augmentation in policy])
