import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks

from flash_internimage.structures.masks import SharedMasks, crop_masks


def test_crops_by_hand():
    # The left half of the mask is set; the crops have 2 x 2 pixels.
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [2.0, 2.0, 6.0, 6.0], [4.0, 0.0, 8.0, 8.0]])
    crops = crop_masks(masks, torch.zeros(3, dtype=torch.int64), boxes, 2, size_divisibility=8)
    assert crops.tolist() == [[[True, False]] * 2, [[True, False]] * 2, [[False, False]] * 2]


def test_equals_bit_masks_without_padding():
    masks = torch.rand(3, 64, 96) < 0.5
    index = torch.tensor([2, 0, 0, 1])
    corners = torch.rand(4, 2) * torch.tensor([60.0, 40.0])
    boxes = torch.cat([corners, corners + torch.rand(4, 2) * 30 + 1], dim=1)
    shared = SharedMasks(BitMasks(masks), index, size_divisibility=32)
    expected = BitMasks(masks[index]).crop_and_resize(boxes, 28)
    assert torch.equal(shared.crop_and_resize(boxes, 28), expected)


def test_a_mask_continues_with_zeros_into_the_padding():
    # A crop of one pixel, just outside the image: bilinear sampling reads zeros if there is padding, otherwise it
    # replicates the last column.
    masks = torch.ones(1, 32, 30, dtype=torch.bool)
    index, box = torch.zeros(1, dtype=torch.int64), torch.tensor([[30.0, 0.0, 31.0, 32.0]])
    assert not crop_masks(masks, index, box, 1, size_divisibility=32).any()
    assert crop_masks(masks, index, box, 1, size_divisibility=1).all()


def test_indexing_does_not_copy_the_bitmaps():
    masks = BitMasks(torch.rand(2, 8, 8) < 0.5)
    shared = SharedMasks(masks, torch.tensor([0, 1, 1]), size_divisibility=32)
    part = shared[torch.tensor([False, True, True])]
    assert len(shared) == 3
    assert len(part) == 2
    assert part.index.tolist() == [1, 1]
    assert part.masks is masks


def test_no_boxes():
    shared = SharedMasks(BitMasks(torch.zeros(0, 8, 8)), torch.zeros(0, dtype=torch.int64), size_divisibility=32)
    assert shared.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)


def test_polygons_raise_an_error_that_names_the_fix():
    polygons = PolygonMasks([[np.array([0.0, 0.0, 4.0, 0.0, 4.0, 4.0])]])
    with pytest.raises(ValueError, match="gt_masks must be BitMasks, got PolygonMasks; set instance_mask_format='bitmask'"):
        SharedMasks(polygons, torch.tensor([0]), size_divisibility=32)
