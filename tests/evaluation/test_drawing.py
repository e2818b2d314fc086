"""Visualization of objects, and arrangement of several images."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from flash_internimage.evaluation import drawing
from flash_internimage.evaluation.drawing import class_color, draw_annotations, draw_instances, grid, side_by_side
from flash_internimage.structures import WindowMasks

GRAY = np.full((60, 80, 3), 128, dtype=np.uint8)


def changed(drawn: np.ndarray) -> tuple[slice, slice]:
    """Return the range of rows and of columns that are no longer gray."""
    rows, columns = np.nonzero((drawn != 128).any(axis=2))
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_box_is_drawn_at_its_position_in_the_color_of_its_class():
    annotation = {"bbox": [30, 20, 24, 16], "category_id": 42, "score": 0.5}
    drawn = draw_annotations(GRAY, [annotation], ["circle", "star"], class_of={7: 0, 42: 1}, scale=1.0)
    left = drawn[24:34, 30].astype(float).mean(axis=0)  # the left edge of the box, away from its label
    hue = np.array(class_color(1))
    assert np.corrcoef(left, hue)[0, 1] > 0.9
    assert (drawn[45:, :20] == 128).all()


def test_detections_below_the_threshold_are_not_drawn():
    found = Instances(
        (60, 80),
        pred_boxes=Boxes(torch.tensor([[4.0, 40.0, 20.0, 55.0], [50.0, 5.0, 70.0, 20.0]])),
        scores=torch.tensor([0.2, 0.9]),
        pred_classes=torch.tensor([0, 0]),
    )
    rows, columns = changed(draw_instances(GRAY, found, ["star"], min_score=0.5, scale=1.0))
    assert rows.stop < 40
    assert columns.start > 20


def with_mask():
    """A detection with a mask of two parts, one of which has a hole; and the same with its mask in a window."""
    mask = torch.zeros(1, 60, 80, dtype=torch.bool)
    mask[0, 20:40, 30:50] = True
    mask[0, 25:35, 35:45] = False
    mask[0, 42:50, 30:38] = True
    fields = {"scores": torch.tensor([0.9]), "pred_classes": torch.tensor([0])}
    boxes = Boxes(torch.tensor([[30.0, 20.0, 50.0, 50.0]]))
    whole = Instances((60, 80), pred_boxes=boxes, pred_masks=mask, **fields)
    windows = WindowMasks.from_bitmaps(mask, (0, 0, 80, 60), (60, 80))
    return whole, Instances((60, 80), pred_boxes=boxes, pred_masks=windows, **fields)


def test_masks_in_windows_are_drawn_like_bitmaps():
    whole, in_window = with_mask()
    assert np.array_equal(draw_instances(GRAY, whole, ["star"]), draw_instances(GRAY, in_window, ["star"]))


@pytest.mark.parametrize("number", [0, 1], ids=["bitmaps", "windows"])
def test_large_images_are_shrunk(monkeypatch, number):
    monkeypatch.setattr(drawing, "_LARGEST_SIDE", 40)
    monkeypatch.setattr(drawing, "legible_scale", lambda height, width: 1.0)
    drawn = draw_instances(GRAY, with_mask()[number], [""])
    assert drawn.shape == (30, 40, 3)
    inside = (drawn != 128).any(axis=2)
    assert inside[10:20, 15:25].all()


def test_tracks_are_named_in_the_label():
    found = with_mask()[0]
    found.track_ids = torch.tensor([12])
    assert drawing._labels_of(found) == ["#12 90%"]
    found.track_ids = torch.tensor([-1])
    assert drawing._labels_of(found) == ["90%"]


def test_small_images_are_enlarged_until_labels_are_legible():
    assert draw_annotations(GRAY, [], []).shape == (360, 480, 3)


def test_side_by_side_leaves_a_white_gap():
    page = side_by_side(GRAY, GRAY)
    assert page.shape == (60, 168, 3)
    assert (page[:, 80:88] == 255).all()


def test_grid_of_images_of_one_size_is_square():
    assert grid([GRAY] * 7).shape == (3 * 60 + 2 * 24, 3 * 80 + 2 * 24, 3)


def test_grid_leaves_only_gaps_between_images():
    images = [np.full((h, w, 3), value, dtype=np.uint8) for value, (h, w) in enumerate([(10, 20), (16, 12), (4, 4), (5, 30)])]
    page = grid(images)
    assert page.shape == (16 + 24 + 5, 20 + 24 + 12 + 24 + 4, 3)  # three images in 2 * (30 + 24) pixels, then one
    assert (page[:10, :20] == 0).all()
    assert (page[:16, 44:56] == 1).all()
    assert (page[:4, 80:84] == 2).all()
    assert (page[40:45, :30] == 3).all()
    assert (page == 255).any(axis=2).sum() == page.shape[0] * page.shape[1] - sum(image[..., 0].size for image in images)


def test_labels_neither_cover_each_other_nor_leave_the_image(monkeypatch: pytest.MonkeyPatch):
    visualizer = Visualizer(GRAY, scale=4.0)
    monkeypatch.setattr(drawing, "Visualizer", lambda image, scale: visualizer)
    boxes = [[10, 10, 40, 50], [11, 12, 42, 51], [10, 11, 41, 49], [70, 50, 79, 59], [0, 55, 30, 60], [60, 2, 79, 40]]
    drawn = drawing.draw_objects(GRAY, np.array(boxes), [0, 1, 0, 1, 0, 1], ["a circle", "star"], scale=4.0)
    output = visualizer.output
    extents = [text.get_window_extent(output.canvas.get_renderer()) for text in output.ax.texts]
    assert len(extents) == 6
    assert [extent.count_overlaps([*extents[:i], *extents[i + 1 :]]) for i, extent in enumerate(extents)] == [0] * 6
    height, width = drawn.shape[:2]
    assert all(extent.x0 >= 0 and extent.x1 <= width and extent.y0 >= 0 and extent.y1 <= height for extent in extents)
