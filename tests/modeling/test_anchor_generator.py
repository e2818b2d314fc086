import math

import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch.testing import assert_close

from flash_internimage.modeling.anchor_generator import AnchorGenerator, cell_anchors, positions_within

SETTINGS = {"sizes": [[32, 48], [64, 96]], "aspect_ratios": [0.5, 1.0, 2.0], "strides": [4, 8]}


def features(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.zeros(2, 1, 5, 7, dtype=dtype), torch.zeros(2, 1, 3, 4, dtype=dtype)]


def test_anchors_of_one_position_by_hand():
    anchors = cell_anchors(torch.tensor([8.0]), torch.tensor([0.25, 1.0, 4.0]))
    assert anchors.tolist() == [[-8, -2, 8, 2], [-4, -4, 4, 4], [-2, -8, 2, 8]]


def test_equals_detectron2_in_float32():
    ours = AnchorGenerator(**SETTINGS)
    theirs = DefaultAnchorGenerator(**SETTINGS, offset=0.0)
    assert ours.num_anchors == theirs.num_anchors
    for mine, other in zip(ours(features()), theirs(features()), strict=True):
        assert_close(mine.tensor, other.tensor)


def test_anchors_are_exact_in_double_precision():
    first = AnchorGenerator(**SETTINGS)(features(torch.float64))[0].tensor[0]
    width, height = 32 * math.sqrt(2), 32 / math.sqrt(2)
    assert_close(first, torch.tensor([-width, -height, width, height], dtype=torch.float64) / 2, rtol=1e-15, atol=0)


def test_anchors_of_half_precision_features_are_float32():
    anchors = AnchorGenerator(**SETTINGS)(features(torch.bfloat16))
    assert all(level.tensor.dtype == torch.float32 for level in anchors)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [((32, 32), 1, 1), ((33, 32), 2, 1), ((32, 65), 1, 3), ((1000, 1000), 3, 4)],
    ids=["one position", "one pixel into the second row", "one pixel into the third column", "larger than the feature map"],
)
def test_positions_within(size, rows, columns):
    inside = positions_within((3, 4), 32, size, torch.device("cpu")).view(3, 4)
    expected = torch.zeros(3, 4, dtype=torch.bool)
    expected[:rows, :columns] = True
    assert torch.equal(inside, expected)


def test_anchors_within_are_those_of_the_positions_within():
    generator = AnchorGenerator(**SETTINGS)
    inside = generator.within(features(), (12, 16))
    anchors = torch.cat([level.tensor for level in generator(features())])
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = (centers[:, 0].round() < 16) & (centers[:, 1].round() < 12)
    assert torch.equal(inside, expected)
    assert inside.sum() == 6 * (3 * 4 + 2 * 2)


@pytest.mark.parametrize("sizes", [[[32]], [[32], [64, 128]]], ids=["too few levels", "unequal levels"])
def test_inconsistent_sizes(sizes):
    with pytest.raises(ValueError, match="AnchorGenerator: sizes needs one list per level"):
        AnchorGenerator(sizes=sizes, aspect_ratios=[1.0], strides=[4, 8])
