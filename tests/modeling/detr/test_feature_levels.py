"""Masks, valid ratios and token centers of padded levels."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from flash_internimage.modeling.detr.feature_levels import (
    flatten_levels,
    resize_mask,
    token_centers,
    valid_ratios,
    valid_sizes,
)
from flash_internimage.modeling.preprocessing import padding_mask


@pytest.mark.parametrize("height", [1, 32, 213, 250, 256])
@pytest.mark.parametrize("width", [7, 331, 352])
def test_resizing_a_mask_is_nearest_neighbor_interpolation(height, width):
    mask = padding_mask(torch.tensor([(height, width)]), (256, 352))
    for stride in (8, 16, 32, 64):
        size = (-(-256 // stride), -(-352 // stride))
        expected = F.interpolate(mask[None].double(), size=size).bool()[0]
        assert torch.equal(resize_mask(mask, size), expected)


def test_an_image_of_one_pixel_has_one_valid_position_on_every_level():
    mask = padding_mask(torch.tensor([(1, 1), (64, 64)]), (64, 64))
    levels = [resize_mask(mask, (size, size)) for size in (8, 4, 2, 1)]
    assert valid_sizes(levels)[0].tolist() == [[1, 1]] * 4


def test_ratios_and_centers_by_hand():
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    mask[:, :2, :3] = False  # 2 of 2 rows, 3 of 4 columns
    valid = valid_sizes([mask])
    assert_close(valid_ratios(valid, [(2, 4)], torch.float64), torch.tensor([[[0.75, 1.0]]], dtype=torch.float64))
    centers = token_centers(valid, [(2, 4)], torch.float64)[0]
    x = torch.tensor([1, 3, 5, 7], dtype=torch.float64) / 6  # over 3 columns; the last one is in the padding
    y = torch.tensor([1, 3], dtype=torch.float64) / 4
    assert_close(centers[:, 0], x.repeat(2))
    assert_close(centers[:, 1], y.repeat_interleave(4))


def test_levels_are_flattened_one_after_the_other_row_by_row():
    fine, coarse = torch.arange(12.0).view(1, 2, 2, 3), torch.arange(12.0, 16.0).view(1, 2, 1, 2)
    tokens = flatten_levels([fine, coarse])
    assert tokens.shape == (1, 8, 2)
    assert tokens[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 12, 13]
