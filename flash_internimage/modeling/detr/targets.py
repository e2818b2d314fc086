"""Targets of an image, and the assignment of queries to them."""

from __future__ import annotations

from typing import NamedTuple

from detectron2.structures import Instances
from torch import Tensor

from .box_ops import to_center_and_size


class Target(NamedTuple):
    """The objects of one image.

    Attributes:
        labels: (n,) classes.
        boxes: (n, 4) as (cx, cy, w, h), relative to the unpadded image.
        scale: (4,), (width, height, width, height) of the unpadded image in pixels; converts relative boxes to pixels.
    """

    labels: Tensor
    boxes: Tensor
    scale: Tensor


class Match(NamedTuple):
    """The m matched pairs of one image: (m,) indices of queries and (m,) indices of their targets."""

    queries: Tensor
    targets: Tensor


def target_of(instances: Instances, like: Tensor) -> Target:
    """Convert annotated instances to a target, with the dtype and device of ``like``.

    Args:
        instances: with ``gt_classes`` and ``gt_boxes`` in pixels (XYXY), of an unpadded image.
    """
    corners = instances.gt_boxes.tensor.to(like)
    height, width = instances.image_size
    scale = like.new_tensor([width, height, width, height])
    return Target(instances.gt_classes.to(like.device), to_center_and_size(corners) / scale, scale)
