"""Masks in windows: the same bitmaps and crops as whole-image bitmaps, to the bit."""

import pickle

import numpy as np
import pycocotools.mask as mask_util
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
    assert np.array_equal(masks.cpu().numpy(), bitmaps.numpy())
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


@pytest.mark.parametrize("count", [0, 1, 9])
def test_run_lengths_are_those_of_whole_bitmaps(count):
    masks, bitmaps = random_masks(count)
    for encoded, bitmap in zip(masks.run_lengths(), bitmaps, strict=True):
        expected = mask_util.encode(np.asfortranarray(bitmap.numpy().astype(np.uint8)))
        assert encoded == {"size": [48, 64], "counts": expected["counts"].decode()}


def test_run_lengths_of_full_columns():
    masks = WindowMasks.from_parts([np.ones((48, 3), bool)], [(5, 0)], (48, 64))
    assert torch.equal(torch.from_numpy(mask_util.decode(masks.run_lengths()[0])).bool(), masks.tensor[0])


def test_bitmaps_of_a_window_are_placed_in_the_image():
    _, bitmaps = random_masks(9)
    masks = WindowMasks.from_bitmaps(bitmaps, (10, 20, 74, 68), (80, 100))
    assert torch.equal(masks.tensor[:, 20:68, 10:74], bitmaps)
    assert masks.tensor.sum() == bitmaps.sum()
    assert masks.pixels.numel() < 9 * 10 * 10 + 1


def test_bitmaps_of_a_window_are_scaled_to_it():
    bitmap = torch.zeros(1, 10, 20, dtype=torch.bool)
    bitmap[0, 2:5, 4:10] = True
    masks = WindowMasks.from_bitmaps(bitmap, (0, 0, 60, 40), (40, 60))
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[8:20, 12:30] = True
    assert torch.equal(masks.tensor[0], expected)


def test_concatenated_and_compacted():
    (first, bitmaps), (second, others) = random_masks(4), random_masks(7)
    joined = WindowMasks.cat([first, second[torch.tensor([6, 2])]])
    assert torch.equal(joined.tensor, torch.cat([bitmaps, others[[6, 2]]]))
    assert torch.equal(joined.compact().tensor, joined.tensor)
    assert joined.compact().pixels.numel() < joined.pixels.numel()
