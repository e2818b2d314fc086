"""NumPy functions for the outputs of an exported file: as detectron2 rescales boxes and pastes masks."""

import numpy as np
import torch
from detectron2.layers.mask_ops import paste_masks_in_image

from flash_internimage.export.postprocessing import paste_masks, rescale_boxes


def test_boxes_are_scaled_and_clipped():
    boxes = np.array([[10, 20, 30, 40], [-5, 0, 300, 90]], np.float32)
    scaled = rescale_boxes(boxes, (50, 100), (100, 400))
    np.testing.assert_allclose(scaled, [[40, 40, 120, 80], [0, 0, 400, 100]])


def test_masks_are_those_of_detectron2():
    generator = np.random.RandomState(0)
    probabilities = generator.rand(6, 28, 28).astype(np.float32)
    boxes = np.array(
        [[3.2, 4.1, 40.7, 33.3], [0, 0, 60, 45], [-4, -3, 9, 8], [50.5, 30, 60, 45], [20, 20, 20.4, 21], [7, 7, 7, 9]],
        np.float32,
    )
    expected = paste_masks_in_image(torch.from_numpy(probabilities), torch.from_numpy(boxes), (45, 60)).numpy()
    masks = paste_masks(probabilities, boxes, (45, 60))
    assert masks.shape == (6, 45, 60)
    assert expected[0].sum() > 300
    # Where a probability equals the threshold up to rounding, the pixel may differ.
    assert (masks[:5] != expected[:5]).sum() <= 1


def test_no_detections():
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (4, 5)).shape == (0, 4, 5)
