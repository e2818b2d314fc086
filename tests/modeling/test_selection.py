"""Selection of a fixed number of rows, against the selection of as many as there are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from flash_internimage.modeling.nms import batched_nms
from flash_internimage.modeling.selection import compact, highest, nms_mask, select_highest


def draw(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes, scores with ties, and groups."""
    corners = torch.rand(number, 2) * 40
    boxes = torch.cat([corners, corners + 5 + torch.rand(number, 2) * 20], dim=1)
    return boxes, torch.randint(0, 30, (number,)) / 30, torch.randint(0, 3, (number,))


def test_equal_scores_go_by_position():
    assert highest(torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]]), 4).tolist() == [[1, 3, 4, 0]]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_the_mask_equals_nms_of_the_valid_boxes(threshold: float):
    boxes, scores, groups = draw(200)
    valid = torch.rand(200) < 0.7
    boxes[~valid] = torch.tensor([float("nan"), float("inf"), -1e9, 3.0])
    mask = nms_mask(boxes, scores, groups, valid, threshold)
    members = valid.nonzero().flatten()
    kept = members[batched_nms(boxes[valid], scores[valid], groups[valid], threshold)]
    assert sorted(kept.tolist()) == mask.nonzero().flatten().tolist()
    assert 1 < len(kept) < len(members)

    order, exists = select_highest(boxes, scores, groups, valid, threshold, count=100)
    assert order[exists].tolist() == kept[:100].tolist()
    assert exists.tolist() == [row < len(kept) for row in range(100)]


def test_negative_coordinates_do_not_reach_another_group():
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    boxes = torch.stack([box, box - 11])  # a shift of the second group by max + 1 = 11 would make them equal
    assert nms_mask(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool), 0.5).all()


@pytest.mark.parametrize("valid", [[False, False, False], [False, True, False]], ids=["none", "one"])
def test_a_mask_of_at_most_one_box(valid: list[bool]):
    boxes, scores, groups = draw(3)
    assert nms_mask(boxes, scores, groups, torch.tensor(valid), 0.5).tolist() == valid


def test_rows_are_compacted_and_boxes_without_area_are_dropped():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 3.0, 9.0], [1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 9.0, 9.0]])
    found = compact(
        boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([3, 2, 1, 2]), torch.tensor([True, True, True, False])
    )
    assert_close(found.boxes, torch.stack([boxes[0], boxes[2], torch.zeros(4), torch.zeros(4)]))
    assert_close(found.scores, torch.tensor([0.9, 0.7, 0.0, 0.0]))
    assert found.classes.tolist() == [3, 1, 0, 0]
    assert found.counts == 2
