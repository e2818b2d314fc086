"""Mapper of test images to their views, which are cropped and resized when the model needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import Augmentation, Transform
from torch import Tensor

from flash_internimage.data import TestMapper
from flash_internimage.data.mapper import read_image
from flash_internimage.data.resize import resize_bilinear

from .plan import View, ViewOptions


class ImageViews:
    """The views of an image. Only the image is stored, so that the tiles of a large image take no memory.

    Args:
        image: (H, W, 3) ``uint8`` tensor in RGB.
        views: the views.
        mapper: resizes a window as it resizes a whole image.
    """

    def __init__(self, image: Tensor, views: list[View], mapper: TestMapper) -> None:
        self.image = image
        self.views = views
        self.mapper = mapper

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    def __iter__(self) -> Iterator[tuple[View, Tensor]]:
        """Yield each view with its pixels, a (3, H', W') ``uint8`` tensor. Flipped views in succession share a resize."""
        for (x0, y0, x1, y1), in_window in groupby(self.views, attrgetter("window")):
            crop = self.image[y0:y1, x0:x1].numpy()
            resized = self.mapper.resized(crop)
            for scale, views in groupby(in_window, attrgetter("scale")):
                pixels = resized if scale == 1 else _resize(crop, *(max(round(side * scale), 1) for side in resized.shape[1:]))
                for view in views:
                    yield view, pixels.flip(2) if view.flipped else pixels


def _resize(image: np.ndarray, height: int, width: int) -> Tensor:
    """Resize an (H, W, 3) ``uint8`` array to a (3, height, width) tensor."""
    return torch.from_numpy(resize_bilinear(image, height, width).transpose(2, 0, 1).copy())


def sample_of_views(image: np.ndarray, options: ViewOptions, mapper: TestMapper) -> dict[str, Any]:
    """Return a sample for :class:`.ViewsDetector`: ``views`` (:class:`ImageViews`), ``height`` and ``width`` of an image.

    Args:
        image: (H, W, 3) ``uint8`` array in RGB.
        options: selects the views.
        mapper: resizes the image and its windows to the input of the model.
    """
    height, width = image.shape[:2]
    pixels = torch.from_numpy(np.ascontiguousarray(image))
    return {"views": ImageViews(pixels, options.views(height, width), mapper), "height": height, "width": width}


class ViewsMapper(TestMapper):
    """Maps a dataset dict to a test sample with the views of its image, for :class:`.ViewsDetector`.

    Without tiles and test-time augmentation, the samples are those of a ``TestMapper``, for the model itself.

    A ``TestMapper`` for windows of images too, so that all that reads or overrides its augmentations in a config can do the
    same here.

    Args:
        augmentations: see :class:`.TestMapper`; applied to the image and to windows of it.
        tile, overlap, tta: see :class:`.ViewOptions`.

    Raises:
        UserError: ``tile`` or ``overlap`` is out of range.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation | Transform],
        tile: int | None = None,
        overlap: float = 0.2,
        tta: bool = False,
    ) -> None:
        super().__init__(augmentations)
        self.options = ViewOptions(tile, overlap, tta)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the dataset dict without annotations, with ``views``: the :class:`ImageViews` of its image."""
        if self.options.is_whole_image:
            return super().__call__(dataset_dict)
        sample = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return {**sample, **sample_of_views(read_image(dataset_dict), self.options, self)}
