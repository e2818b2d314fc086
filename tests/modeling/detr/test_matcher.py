"""Hungarian matching is optimal among all permutations, and its costs follow the losses."""

import itertools

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from flash_internimage.modeling.detr.matcher import HungarianMatcher, focal_cost
from flash_internimage.modeling.detr.targets import Target


def make_target(count: int, size: tuple[int, int] = (200, 300), num_classes: int = 6) -> Target:
    center, side = torch.rand(count, 2, dtype=torch.float64), torch.rand(count, 2, dtype=torch.float64) * 0.3 + 0.01
    height, width = size
    scale = torch.tensor([width, height, width, height], dtype=torch.float64)
    return Target(torch.randint(num_classes, (count,)), torch.cat([center, side], dim=-1), scale)


def predictions(images: int, queries: int, num_classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(images, queries, num_classes, dtype=torch.float64), torch.rand(images, queries, 4, dtype=torch.float64)


def test_the_class_cost_is_the_change_of_the_focal_loss():
    logits, labels = torch.randn(5, 6, dtype=torch.float64), torch.tensor([2, 0, 2])
    cost = focal_cost(logits, labels)
    for query, label in itertools.product(range(5), range(3)):
        logit = logits[query, labels[label]]
        positive, negative = (sigmoid_focal_loss(logit, torch.full_like(logit, value)) for value in (1.0, 0.0))
        assert_close(cost[query, label], positive - negative, rtol=1e-9, atol=1e-9)


def test_the_cost_is_the_weighted_sum_of_its_three_parts():
    target, (logits, boxes) = make_target(3), predictions(1, 4)
    cost = HungarianMatcher(class_cost=2.0, l1_cost=5.0, giou_cost=2.0).cost(logits[0], boxes[0], target)

    def pixels(relative: torch.Tensor) -> torch.Tensor:
        center, side = relative[:, :2], relative[:, 2:]
        return torch.cat([center - side / 2, center + side / 2], dim=-1) * target.scale

    expected = (
        2 * focal_cost(logits[0], target.labels)
        + 5 * torch.cdist(boxes[0], target.boxes, p=1)
        - 2 * generalized_box_iou(pixels(boxes[0]), pixels(target.boxes))
    )
    assert_close(cost, expected)


@pytest.mark.parametrize(("queries", "count"), [(5, 3), (3, 5)], ids=["more queries than boxes", "more boxes than queries"])
def test_no_other_assignment_costs_less(queries, count):
    targets, (logits, boxes) = [make_target(count), make_target(0)], predictions(2, queries)
    matcher = HungarianMatcher()
    match, empty = matcher(logits, boxes, targets)
    assert len(match.queries) == len(set(match.queries.tolist())) == len(set(match.targets.tolist())) == min(queries, count)
    assert len(empty.queries) == len(empty.targets) == 0

    cost = matcher.cost(logits[0], boxes[0], targets[0])
    if queries < count:
        cost = cost.T
    rows, columns = cost.shape
    best = min(
        sum(cost[row, column] for column, row in enumerate(rows)) for rows in itertools.permutations(range(rows), columns)
    )
    matrix = matcher.cost(logits[0], boxes[0], targets[0])
    assert_close(matrix[match.queries, match.targets].sum(), best)


def test_predictions_that_are_not_finite_are_assigned_too():
    logits, boxes = predictions(1, 4)
    logits[0, 1], boxes[0, 2] = float("nan"), float("inf")
    (match,) = HungarianMatcher()(logits, boxes, [make_target(2)])
    assert len(match.queries) == 2
