import pytest
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.structures import select


@pytest.fixture
def instances():
    return Instances((4, 4), pred_boxes=Boxes(torch.rand(3, 4)), pred_masks=torch.rand(3, 4, 4) < 0.5)


def test_an_index_that_changes_nothing_copies_nothing(instances):
    assert select(instances, torch.arange(3)) is instances


@pytest.mark.parametrize("index", [[2, 0, 1], [0, 1], [1, 2], []], ids=["order", "first", "last", "none"])
def test_selection(instances, index):
    selected = select(instances, torch.tensor(index, dtype=torch.int64))
    torch.testing.assert_close(selected.pred_boxes.tensor, instances.pred_boxes.tensor[index])
    assert torch.equal(selected.pred_masks, instances.pred_masks[index])


def test_no_instances():
    empty = Instances((4, 4), pred_boxes=Boxes(torch.zeros(0, 4)))
    assert select(empty, torch.zeros(0, dtype=torch.int64)) is empty
