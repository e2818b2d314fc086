import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou

from flash_internimage.modeling.losses import giou_loss


def random_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * 10
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, dtype=torch.float64) * 10], dim=1)


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 2, 2), 0.0), ((2, 0, 4, 2), 1.0), ((4, 0, 6, 2), 1 + 1 / 3), ((0, 0, 1, 2), 0.5)],
    ids=["equal boxes", "adjacent boxes", "distant boxes", "half of the target"],
)
def test_by_hand(box, expected):
    target = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert_close(giou_loss(torch.tensor([box]).float(), target), torch.tensor([expected]))


def test_equals_torchvision():
    boxes, targets = random_boxes(30), random_boxes(30)
    assert_close(giou_loss(boxes, targets), 1 - generalized_box_iou(boxes, targets).diagonal())


def test_gradient():
    assert gradcheck(giou_loss, (random_boxes(5).requires_grad_(), random_boxes(5)))


def test_empty_boxes_and_nan():
    point = torch.zeros(1, 4, requires_grad=True)
    loss = giou_loss(point, torch.zeros(1, 4))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert point.grad.isfinite().all()
    assert giou_loss(torch.full((1, 4), torch.nan), torch.zeros(1, 4)).isnan().all()
