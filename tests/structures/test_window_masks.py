"""Masks in windows: the same bitmaps and crops as whole-image bitmaps, to the bit."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks

from flash_internimage.structures import SharedMasks, WindowMasks
from flash_internimage.structures import masks as masks_module


def random_masks(count: int, size: tuple[int, int] = (48, 64)) -> tuple[WindowMasks, torch.Tensor]:
    """Masks in windows, and the same as whole-image bitmaps."""
    random = np.random.RandomState(count)
    bitmaps = torch.zeros((count, *size), dtype=torch.bool)
    parts, corners = [], []
    for bitmap in bitmaps:
        y0, x0 = random.randint(0, size[0] - 10), random.randint(0, size[1] - 10)
        part = random.rand(random.randint(0, 11), random.randint(0, 11)) < 0.5
        bitmap[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = torch.from_numpy(part)
        parts.append(part)
        corners.append((x0, y0))
    return WindowMasks.from_parts(parts, corners, size), bitmaps


@pytest.mark.parametrize("count", [0, 1, 9])
def test_bitmaps(count):
    masks, bitmaps = random_masks(count)
    assert len(masks) == count
    assert torch.equal(masks.tensor, bitmaps)
    assert torch.equal(masks.nonempty(), BitMasks(bitmaps).nonempty())
    assert [torch.equal(a, b) for a, b in zip(masks, bitmaps, strict=True)] == [True] * count


ITEMS = {
    "number": 3,
    "slice": slice(2, 7, 2),
    "indices": torch.tensor([4, 4, 0]),
    "booleans": torch.arange(9) % 2 == 0,
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS.keys())
def test_indexing_shares_the_pixels(item):
    masks, bitmaps = random_masks(9)
    part = masks[item]
    assert torch.equal(part.tensor, BitMasks(bitmaps)[item].tensor)
    assert part.pixels is masks.pixels


def test_survives_the_way_between_processes():
    masks, bitmaps = random_masks(9)
    assert torch.equal(pickle.loads(pickle.dumps(masks.to("cpu"))).tensor, bitmaps)


@pytest.mark.parametrize("max_pixels", [1, 48 * 64 * 4, 1 << 25], ids=["one at once", "four at once", "all at once"])
def test_crops_of_shared_masks_equal_those_of_bitmaps(monkeypatch, max_pixels):
    masks, bitmaps = random_masks(9)
    index = torch.randint(9, (40,))
    corners = torch.rand(40, 2) * torch.tensor([60.0, 40.0]) - 4
    boxes = torch.cat([corners, corners + torch.rand(40, 2) * 30 + 1], dim=1)
    expected = masks_module.crop_masks(bitmaps, index, boxes, 28, size_divisibility=32)
    monkeypatch.setattr(masks_module, "_MAX_PIXELS", max_pixels)
    for given in (masks, BitMasks(bitmaps)):
        assert torch.equal(SharedMasks(given, index, size_divisibility=32).crop_and_resize(boxes, 28), expected)
    assert expected.any()


def test_crops_equal_those_of_detectron2():
    masks, bitmaps = random_masks(9)
    boxes = torch.tensor([[1.5, 2.0, 40.25, 30.0]]).repeat(9, 1)
    assert torch.equal(masks.crop_and_resize(boxes, 14), BitMasks(bitmaps).crop_and_resize(boxes, 14))
    assert masks[0:0].crop_and_resize(boxes[:0], 14).shape == (0, 14, 14)
