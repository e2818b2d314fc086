"""Conversions between the three representations of boxes."""

import torch
from torch.testing import assert_close

from flash_internimage.modeling.detr.box_ops import inverse_sigmoid, to_center_and_size, to_corners


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2, dtype=torch.float64) * 100
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, dtype=torch.float64) * 60], dim=-1)


def test_center_and_size_lead_back_to_corners():
    boxes = random_boxes(20).view(4, 5, 4)
    assert_close(to_corners(to_center_and_size(boxes)), boxes)
    assert_close(to_center_and_size(torch.tensor([[1.0, 2.0, 5.0, 10.0]])), torch.tensor([[3.0, 6.0, 4.0, 8.0]]))


def test_inverse_sigmoid_is_the_logit_within_its_bounds():
    x = torch.linspace(0.002, 0.998, 50, dtype=torch.float64)
    assert_close(inverse_sigmoid(x), torch.logit(x))
    bounds = inverse_sigmoid(torch.tensor([-3.0, 0.0, 1.0, 7.0], dtype=torch.float64))
    largest = torch.tensor(1e3, dtype=torch.float64).log()
    assert_close(bounds, torch.stack([-largest, -largest, largest, largest]))
