"""The losses of a set of predictions equal loops over its queries."""

import math

import torch
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou

from flash_internimage.modeling.detr.losses import set_losses
from flash_internimage.modeling.detr.targets import Match, Target

NUM_CLASSES = 4


def as_target(labels: list[int], boxes: list[list[float]], size: tuple[int, int]) -> Target:
    height, width = size
    boxes = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
    return Target(torch.tensor(labels, dtype=torch.int64), boxes, boxes.new_tensor([width, height, width, height]))


def no_match() -> Match:
    return Match(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def focal(logit: float, positive: bool, alpha: float = 0.25, gamma: float = 2.0) -> float:
    probability = 1 / (1 + math.exp(-logit))
    if positive:
        return -alpha * (1 - probability) ** gamma * math.log(probability)
    return -(1 - alpha) * probability**gamma * math.log(1 - probability)


def in_pixels(box: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) * scale


def test_losses_equal_loops_over_queries():
    logits = torch.randn(2, 3, NUM_CLASSES, dtype=torch.float64)
    boxes = torch.rand(2, 3, 4, dtype=torch.float64)
    targets = [
        as_target([1, 3], [[0.4, 0.4, 0.2, 0.3], [0.7, 0.5, 0.1, 0.1]], (100, 50)),
        as_target([0], [[0.5, 0.5, 0.9, 0.9]], (80, 320)),
    ]
    pairs = [[(2, 0), (0, 1)], [(1, 0)]]
    matches = [Match(*torch.tensor(image).T) for image in pairs]
    losses = set_losses(logits, boxes, targets, matches, torch.tensor(3.0))

    classes = l1 = iou = 0.0
    for image in range(2):
        label_of = {query: int(targets[image].labels[target]) for query, target in pairs[image]}
        for query in range(3):
            for k in range(NUM_CLASSES):
                classes += focal(float(logits[image, query, k]), label_of.get(query) == k)
        for query, target in pairs[image]:
            box, wanted, scale = boxes[image, query], targets[image].boxes[target], targets[image].scale
            l1 += float((box - wanted).abs().sum())
            iou += 1 - float(generalized_box_iou(in_pixels(box, scale)[None], in_pixels(wanted, scale)[None]))
    for loss, expected in zip(losses, (classes, l1, iou), strict=True):
        assert_close(float(loss), expected / 3)


def test_without_objects_every_query_is_background_and_box_losses_are_zero():
    logits = torch.randn(1, 3, NUM_CLASSES, dtype=torch.float64, requires_grad=True)
    boxes = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)
    losses = set_losses(logits, boxes, [as_target([], [], (10, 10))], [no_match()], torch.tensor(1.0))
    assert losses.classes > 0
    assert losses.boxes == losses.iou == 0
    sum(losses).backward()
    assert logits.grad.abs().min() > 0
    assert torch.equal(boxes.grad, torch.zeros_like(boxes)), "a missing gradient would stop a distributed run"


def test_one_pixel_boxes_give_finite_losses_and_gradients():
    size = (1000, 1000)
    boxes = torch.tensor([[[0.5, 0.5, 0.001, 0.001], [0.2, 0.2, 1e-9, 1e-9]]], dtype=torch.float64, requires_grad=True)
    target = as_target([0, 0], [[0.5, 0.5, 0.001, 0.001], [0.9, 0.9, 0.001, 0.001]], size)
    match = Match(torch.tensor([0, 1]), torch.tensor([0, 1]))
    losses = set_losses(torch.zeros(1, 2, NUM_CLASSES, dtype=torch.float64), boxes, [target], [match], torch.tensor(2.0))
    sum(losses).backward()
    assert all(loss.isfinite() for loss in losses)
    assert boxes.grad.isfinite().all()
