"""Mapper of test images to their views, which are cropped and resized when the model needs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flash_internimage.data import TestMapper
from flash_internimage.data.mapper import read_image
from flash_internimage.data.resize import resize_bilinear
from flash_internimage.errors import UserError

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
        """Yield each view with its pixels, a (3, H', W') ``uint8`` tensor."""
        for view in self.views:
            yield view, self._pixels(view)

    def _pixels(self, view: View) -> Tensor:
        x0, y0, x1, y1 = view.window
        crop = self.image[y0:y1, x0:x1].numpy()
        resized = self.mapper.resized(crop)
        if view.scale != 1:
            height, width = (max(round(side * view.scale), 1) for side in resized.shape[1:])
            resized = torch.from_numpy(resize_bilinear(crop, height, width).transpose(2, 0, 1).copy())
        return resized.flip(2) if view.flipped else resized


class ViewsMapper:
    """Maps a dataset dict to a test sample with the views of its image, for :class:`.ViewsDetector`.

    Args:
        mapper: resizes images and windows of images to the input of the model.
        tile, overlap, tta: see :class:`.ViewOptions`.

    Raises:
        UserError: ``mapper`` cannot resize an image, or another argument is out of range.
    """

    def __init__(self, mapper: TestMapper, tile: int | None = None, overlap: float = 0.2, tta: bool = False) -> None:
        if not isinstance(mapper, TestMapper):
            raise UserError(f"tiles and tta: dataloader.test.mapper should be a TestMapper, got {type(mapper).__name__}")
        self.mapper = mapper
        self.options = ViewOptions(tile, overlap, tta)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the dataset dict without annotations, with ``views``: the :class:`ImageViews` of its image."""
        sample = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return {**sample, **self.sample(read_image(dataset_dict))}

    def sample(self, image: np.ndarray) -> dict[str, Any]:
        """Return ``views``, ``height`` and ``width`` of an (H, W, 3) ``uint8`` RGB image."""
        height, width = image.shape[:2]
        views = self.options.views(height, width)
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        return {"views": ImageViews(pixels, views, self.mapper), "height": height, "width": width}
