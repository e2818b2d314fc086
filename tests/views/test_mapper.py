"""Views of an image: each window is resized once per scale."""

import numpy as np
import torch

from flash_internimage.data import ResizeToFit, TestMapper
from flash_internimage.views import ViewOptions, sample_of_views
from flash_internimage.views import mapper as mapper_module
from flash_internimage.views.mapper import ImageViews


def test_a_window_is_resized_once_per_scale(monkeypatch):
    resized = []

    class Counted(TestMapper):
        def resized(self, image):
            resized.append(image)
            return super().resized(image)

    resize = mapper_module.resize_bilinear
    monkeypatch.setattr(mapper_module, "resize_bilinear", lambda image, *size: resized.append(image) or resize(image, *size))
    image = np.random.RandomState(0).randint(0, 256, (50, 80, 3)).astype(np.uint8)
    views = sample_of_views(image, ViewOptions(tile=40, tta=True), Counted([ResizeToFit([64], 128)]))["views"]
    windows = {view.window for view in views.views}
    found = list(views)
    assert len(found) == 6 * len(windows)
    assert len(resized) == 3 * len(windows)
    for view, pixels in found:
        ((_, alone),) = ImageViews(views.image, [view], views.mapper)
        assert torch.equal(pixels, alone)
