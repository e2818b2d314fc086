"""Box spaces, and generalized IoU against torchvision and against numbers worked out by hand."""

import pytest
import torch
import torchvision
from torch.testing import assert_close

from flash_internimage.modeling.detr.box_ops import generalized_iou, inverse_sigmoid, to_center_and_size, to_corners


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2, dtype=torch.float64) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, dtype=torch.float64) * 60], dim=-1)


def test_center_and_size_lead_back_to_corners():
    boxes = random_boxes(20).view(4, 5, 4)
    assert_close(to_corners(to_center_and_size(boxes)), boxes)
    assert_close(to_center_and_size(torch.tensor([[1.0, 2.0, 5.0, 10.0]])), torch.tensor([[3.0, 6.0, 4.0, 8.0]]))


def test_generalized_iou_of_all_pairs_equals_torchvision():
    boxes1, boxes2 = random_boxes(30), random_boxes(40)
    expected = torchvision.ops.generalized_box_iou(boxes1, boxes2)
    assert_close(generalized_iou(boxes1[:, None], boxes2[None]), expected)
    assert (expected < 0).any()
    assert (expected > 0).any()


def test_generalized_iou_by_hand():
    # Two 2 x 2 boxes that share a 1 x 1 corner: IoU 1 / 7, hull 3 x 3 of which 2 cells belong to neither.
    value = generalized_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 3.0, 3.0]))
    assert_close(value, torch.tensor(1 / 7 - 2 / 9))


@pytest.mark.parametrize(
    ("box", "other"),
    [
        ([3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]),
        ([3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 4.0, 4.0]),
        ([5.0, 5.0, 4.0, 4.0], [3.0, 3.0, 4.0, 4.0]),
    ],
    ids=["two points", "a point in a pixel", "corners the wrong way round"],
)
def test_boxes_without_area_have_finite_values_and_gradients(box, other):
    box = torch.tensor(box, requires_grad=True)
    value = generalized_iou(box, torch.tensor(other))
    value.backward()
    assert value.isfinite()
    assert box.grad.isfinite().all()


def test_inverse_sigmoid_is_the_logit_within_its_bounds():
    x = torch.linspace(0.002, 0.998, 50, dtype=torch.float64)
    assert_close(inverse_sigmoid(x), torch.logit(x))
    bounds = inverse_sigmoid(torch.tensor([-3.0, 0.0, 1.0, 7.0], dtype=torch.float64))
    largest = torch.tensor(1e3, dtype=torch.float64).log()
    assert_close(bounds, torch.stack([-largest, -largest, largest, largest]))
