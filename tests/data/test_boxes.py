"""Boxes of annotations, whose formats may differ within an image."""

import numpy as np
from detectron2.structures import BoxMode

from flash_internimage.data.boxes import boxes_of


def test_boxes_of_several_formats_keep_their_order_and_precision():
    annotations = [
        {"bbox": [1.1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS},
        {"bbox": np.array([1.1, 2, 3, 4]), "bbox_mode": BoxMode.XYXY_ABS},
        {"bbox": (5, 6, 7, 8), "bbox_mode": BoxMode.XYWH_ABS},
    ]
    boxes = boxes_of(annotations, BoxMode.XYXY_ABS)
    assert boxes.dtype == np.float64
    assert boxes.tolist() == [[1.1, 2, 1.1 + 3, 6], [1.1, 2, 3, 4], [5, 6, 12, 14]]


def test_no_boxes():
    assert boxes_of([], BoxMode.XYXY_ABS).shape == (0, 4)
