"""Boxes and masks in the original image, against detectron2's postprocessing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from flash_internimage.export.postprocessing import paste_masks, rescale_boxes

ALONE = """
import importlib.util, sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "detectron2", "flash_internimage")))
spec = importlib.util.spec_from_file_location("postprocessing", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import numpy as np
print(module.paste_masks(np.ones((1, 28, 28)), np.array([[1, 1, 3, 4]]), (5, 6)).sum())
"""


def draw_boxes(number: int, height: int, width: int) -> torch.Tensor:
    corners = torch.rand(number, 2, 2) * torch.tensor([width, height])
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


@pytest.mark.parametrize("size", [(40, 60), (333, 211)])
def test_masks_are_pasted_as_detectron2_does(size):
    boxes = torch.cat([draw_boxes(20, *size), torch.tensor([[0.0, 0.0, size[1], size[0]], [3.5, 2.5, 3.6, 2.6]])])
    masks = torch.rand(len(boxes), 28, 28)
    expected = paste_masks_in_image(masks, Boxes(boxes), size)
    found = paste_masks(masks.numpy(), boxes.numpy(), size)
    assert found.dtype == bool
    assert found.any()
    assert np.array_equal(found, expected.numpy())


def test_no_masks_give_no_masks():
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (5, 6)).shape == (0, 5, 6)


def test_boxes_are_scaled_to_the_original_image_and_clipped():
    boxes = draw_boxes(20, 70, 90) * 1.2
    instances = Instances((70, 90), pred_boxes=Boxes(boxes.clone()))
    expected = detector_postprocess(instances, 133, 200).pred_boxes.tensor
    found = rescale_boxes(boxes.numpy(), (70, 90), (133, 200))
    found = found[(found[:, 2:] > found[:, :2]).all(axis=1)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)


def test_the_file_needs_numpy_alone():
    file = Path(sys.modules[paste_masks.__module__].__file__)
    done = subprocess.run([sys.executable, "-c", ALONE, str(file)], capture_output=True, text=True, check=False)
    assert done.stdout == "6\n", done.stderr
