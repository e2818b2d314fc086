"""The augmentations of the published recipes, as detectron2 augmentations.

Random numbers come from numpy's global generator, as in detectron2; the training stream seeds it for every sample.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.data.transforms import AugInput, Augmentation, CropTransform, Transform, TransformList

from .resize import fit_size, resize_bilinear, resize_nearest


class ExactResizeTransform(Transform):
    """Resizes images (bilinear, no antialiasing), masks (nearest neighbor) and coordinates (scaled separately along each axis).

    Args:
        height: input height in pixels.
        width: input width in pixels.
        new_height: output height in pixels.
        new_width: output width in pixels.
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


class ColorTransform(Transform):
    """Maps the color of every pixel linearly; coordinates and masks stay as they are.

    Args:
        matrix: (3, 3) array; the new color is ``matrix @ color + offset``.
        offset: added to every channel, in intensities of 0..255.
    """

    def __init__(self, matrix: np.ndarray, offset: float) -> None:
        super().__init__()
        self.matrix = matrix
        self.offset = offset

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        colors = img.astype(np.float32) @ self.matrix.T.astype(np.float32) + np.float32(self.offset)
        return np.rint(colors).clip(0, 255).astype(np.uint8)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords


_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


class PhotometricDistortion(Augmentation):
    """Changes brightness, contrast, saturation and hue, each with probability 0.5.

    The ranges are SSD's. All four are linear in RGB here (the hue is rotated in YIQ), so that one pass suffices.

    Args:
        brightness: maximum difference in brightness, in intensities of 0..255.
        contrast: maximum relative change of the contrast.
        saturation: maximum relative change of the saturation.
        hue: maximum rotation of the hue, in degrees.
    """

    def __init__(self, brightness: float = 32, contrast: float = 0.5, saturation: float = 0.5, hue: float = 18) -> None:
        super().__init__()
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_transform(self, image: np.ndarray) -> Transform:
        brightness, contrast, saturation, hue = (
            limit * np.random.uniform(-1, 1) * np.random.randint(2)
            for limit in (self.brightness, self.contrast, self.saturation, np.deg2rad(self.hue))
        )
        rotation = np.array([[1, 0, 0], [0, np.cos(hue), -np.sin(hue)], [0, np.sin(hue), np.cos(hue)]])
        gray = np.tile(_LUMA, (3, 1))
        matrix = (1 + contrast) * (gray + (1 + saturation) * (np.linalg.inv(_YIQ) @ rotation @ _YIQ - gray))
        return ColorTransform(matrix, brightness)


class ResizeToFit(Augmentation):
    """Resizes an image, keeping its aspect ratio, so that it fits a short and a long side.

    Args:
        short_sides: candidates for the maximum length of the shorter side, in pixels; one is drawn for each image.
        long_side: maximum length of the longer side, in pixels.
    """

    def __init__(self, short_sides: Sequence[int], long_side: int) -> None:
        super().__init__()
        self.short_sides = tuple(short_sides)
        self.long_side = long_side

    def get_transform(self, image: np.ndarray) -> Transform:
        short_side = self.short_sides[np.random.randint(len(self.short_sides))]
        height, width = image.shape[:2]
        return ExactResizeTransform(height, width, *fit_size(height, width, short_side, self.long_side))


class FitWithin(Augmentation):
    """Resizes an image, keeping its aspect ratio, so that it fits a fixed height and width, in pixels."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        scale = min(self.height / height, self.width / width)
        new_size = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
        return ExactResizeTransform(height, width, *new_size)


class ScaleJitter(Augmentation):
    """Resizes an image to fit a square of random size: the first step of large-scale jitter, which a crop completes.

    Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method", and ViTDet's recipe.

    Args:
        low: minimum scale factor, relative to ``target_side``.
        high: maximum scale factor, relative to ``target_side``.
        target_side: side of the square at scale 1, in pixels.
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
    """Crops a random window; its height and width are drawn independently from ``min(side, low)..min(side, high)``.

    Both distributions are uniform and include both ends; every position of the window is equally likely.

    Args:
        low: minimum side of the window, in pixels.
        high: maximum side of the window, in pixels.
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
    """Applies one of several policies, chosen uniformly at random.

    Args:
        policies: lists of augmentations; those of the chosen list are applied in order.
    """

    def __init__(self, policies: Sequence[Sequence[Augmentation]]) -> None:
        super().__init__()
        self.policies = [list(policy) for policy in policies]

    def __call__(self, aug_input: AugInput) -> TransformList:
        policy = self.policies[np.random.randint(len(self.policies))]
        return TransformList([augmentation(aug_input) for augmentation in policy])
