"""Detection in views with a model that finds rectangles exactly: where it looks, and where the detections are in the image."""

import weakref

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from scipy import ndimage
from torch import nn

from flash_internimage.data import ResizeToFit, TestMapper
from flash_internimage.views import ViewOptions, ViewsDetector, sample_of_views
from flash_internimage.views import detector as detector_module
from flash_internimage.views.detector import in_image
from flash_internimage.views.plan import View


class BrightRectangles(nn.Module):
    """Detects the connected bright regions of an image with sides of at least 4 pixels; it trusts enlarged images more."""

    def __init__(self, with_masks=True):
        super().__init__()
        self.with_masks = with_masks
        self.shapes = []

    def forward(self, batch):
        return [{"instances": self.detect(sample)} for sample in batch]

    def detect(self, sample):
        image = sample["image"][0].numpy()
        self.shapes.append((image.shape, (sample["height"], sample["width"])))
        size = (sample["height"], sample["width"])
        regions, _ = ndimage.label(image > 127)
        scale = np.array([size[0] / image.shape[0], size[1] / image.shape[1]])
        boxes, masks = [], []
        for rows, columns in ndimage.find_objects(regions):
            if min(rows.stop - rows.start, columns.stop - columns.start) < 4:
                continue
            (y0, x0), (y1, x1) = scale * (rows.start, columns.start), scale * (rows.stop, columns.stop)
            boxes.append([x0, y0, x1, y1])
            mask = np.zeros(size, dtype=bool)
            mask[round(y0) : round(y1), round(x0) : round(x1)] = True
            masks.append(mask)
        found = Instances(size)
        found.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        found.scores = torch.full((len(boxes),), 0.5 + 0.1 * min(image.shape[0] / size[0], 4))
        found.pred_classes = torch.zeros(len(boxes), dtype=torch.int64)
        if self.with_masks:
            found.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *size))
        return found


RECTANGLES = [(10, 10, 18, 16), (95, 40, 108, 50), (150, 100, 158, 112), (30, 60, 46, 110)]
"""The second one crosses the edge of a tile."""


def image(height=120, width=200, rectangles=RECTANGLES):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in rectangles:
        pixels[y0:y1, x0:x1] = 255
    return pixels


def detect(image, side, with_masks=True, **options):
    model = BrightRectangles(with_masks)
    sample = sample_of_views(image, ViewOptions(**options), TestMapper([ResizeToFit([side], 2 * side)]))
    (output,) = ViewsDetector(model, batch_size=2)([sample])
    return output["instances"], model


def boxes_of(instances):
    return sorted(tuple(box) for box in instances.pred_boxes.tensor.round().int().tolist())


@pytest.mark.parametrize("with_masks", [True, False], ids=["masks", "boxes"])
def test_tiles_find_small_objects_that_the_whole_image_at_low_resolution_does_not(with_masks):
    whole, _ = detect(image(), 60, with_masks)
    assert len(whole) < len(RECTANGLES)
    found, model = detect(image(), 60, with_masks, tile=60, overlap=0.5)
    assert len(model.shapes) == 1 + 3 * 6
    assert boxes_of(found) == sorted(RECTANGLES)
    if with_masks:
        expected = np.zeros(found.image_size, dtype=bool)
        for x0, y0, x1, y1 in RECTANGLES:
            expected[y0:y1, x0:x1] = True
        assert np.array_equal(found.pred_masks.tensor.any(dim=0).numpy(), expected)


def test_an_object_larger_than_a_tile_is_found_once_in_the_whole_image():
    rectangle = (20, 20, 180, 100)
    found, _ = detect(image(rectangles=[rectangle]), 60, tile=60, overlap=0.2)
    assert boxes_of(found) == [rectangle]


def test_augmented_views_agree_on_where_the_objects_are():
    found, model = detect(image(), 120, tta=True)
    assert boxes_of(found) == sorted(RECTANGLES)
    assert sorted({shape for shape, _ in model.shapes}) == [(90, 150), (120, 200), (150, 250)]


@pytest.mark.parametrize("limit", [2**22, 600], ids=["full size", "scaled up"])
def test_masks_of_large_windows_are_scaled_up(monkeypatch, limit):
    monkeypatch.setattr(detector_module, "_MAX_BITMAP", limit)
    rectangle = (40, 20, 160, 100)
    found, model = detect(image(rectangles=[rectangle]), 120, tile=None)
    height, width = model.shapes[0][1]
    assert height * width <= limit or (height, width) == (120, 200)
    expected = image(rectangles=[rectangle])[..., 0] > 0
    different = found.pred_masks.tensor[0].numpy() ^ expected
    # At 600 pixels, a pixel of the mask is 7 of the image, and an edge is off by at most half of it, on 400 pixels of outline.
    assert different.sum() <= (0 if limit > 600 else 400 * 3.5)
    assert boxes_of(found)[0] == pytest.approx(rectangle, abs=1)


def test_outputs_of_the_model_are_not_kept_while_an_earlier_view_waits():
    class Counted(BrightRectangles):
        outputs, alive = [], []

        def forward(self, batch):
            self.alive.append(sum(output() is not None for output in self.outputs))
            found = super().forward(batch)
            self.outputs.extend(weakref.ref(output["instances"]) for output in found)
            return found

    sample = sample_of_views(image(), ViewOptions(tile=60, overlap=0.5), TestMapper([ResizeToFit([60], 240)]))
    ViewsDetector(Counted(), batch_size=2)([sample])
    assert len(Counted.outputs) == 1 + 3 * 6
    assert max(Counted.alive) <= 2  # the whole image has another shape, and waits for 7 tiles


def test_low_scores_are_dropped_before_the_merging():
    model = BrightRectangles()
    sample = sample_of_views(image(), ViewOptions(tile=60), TestMapper([ResizeToFit([120], 240)]))
    (output,) = ViewsDetector(model, min_score=0.95)([sample])
    assert len(output["instances"]) == 0


def test_a_flipped_view_of_a_tile_in_the_image():
    found = Instances((20, 30))
    found.pred_boxes = Boxes(torch.tensor([[2.0, 3.0, 10.0, 8.0], [0.0, 3.0, 10.0, 8.0]]))
    found.scores = torch.tensor([0.9, 0.8])
    found.pred_classes = torch.zeros(2, dtype=torch.int64)
    found.pred_masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    found.pred_masks[:, 3:8, 2:10] = True
    placed = in_image(found, View((100, 50, 130, 70), flipped=True), (80, 200))
    assert placed.pred_boxes.tensor.tolist() == [[120, 53, 128, 58], [120, 53, 130, 58]]
    expected = torch.zeros(80, 200, dtype=torch.bool)
    expected[53:58, 120:128] = True
    assert torch.equal(placed.pred_masks.tensor[0], expected)
    assert placed.is_cut.tolist() == [False, True]
