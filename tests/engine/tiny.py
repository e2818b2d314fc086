"""A minimal detector, data loader and evaluator with detectron2's interfaces, for tests of the engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn


class TinyDetector(nn.Module):
    """A detector with one box per image, whose steps depend on random numbers (dropout and noise on the target)."""

    def __init__(self, num_classes: int = 3, width: int = 8, dropout: float = 0.2, bad_iteration: int | None = None) -> None:
        """
        Args:
            bad_iteration: index of the training call in which ``loss_box`` is NaN.
        """
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(dropout))
        self.box_head = nn.Linear(width, 4)
        self.class_head = nn.Linear(width, num_classes)
        self.bad_iteration = bad_iteration
        self.calls = 0

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        device = self.box_head.weight.device
        images = torch.stack([inputs["image"].to(device) for inputs in batched_inputs])
        features = self.body(images).mean(dim=(2, 3))
        boxes, logits = self.box_head(features), self.class_head(features)
        if not self.training:
            return [{"instances": self._instances(box, logit)} for box, logit in zip(boxes, logits, strict=True)]
        targets = torch.stack([inputs["target"].to(device) for inputs in batched_inputs])
        loss_box = (boxes - targets - 0.1 * torch.randn_like(targets)).abs().mean()
        if self.calls == self.bad_iteration:
            loss_box = loss_box * float("nan")
        self.calls += 1
        return {"loss_box": loss_box, "loss_cls": logits.logsumexp(1).mean()}

    @staticmethod
    def _instances(box: torch.Tensor, logit: torch.Tensor) -> Instances:
        score, label = logit.softmax(0).max(0)
        return Instances((16, 16), pred_boxes=Boxes(box[None]), scores=score[None], pred_classes=label[None])


def image(index: int) -> dict[str, Any]:
    """Return a random image, determined by its index, and its target."""
    generator = torch.Generator().manual_seed(index)
    return {
        "image": torch.rand(3, 16, 16, generator=generator),
        "target": torch.rand(4, generator=generator),
        "file_name": f"images/{index:06d}.png",
        "image_id": index,
        "height": 16,
        "width": 16,
    }


class TinyTrainLoader:
    """Infinite iterable of batches, each a function of the iteration, distributed over the processes."""

    def __init__(
        self,
        total_batch_size: int,
        start_iteration: int = 0,
        signals: tuple[str, ...] = (),
        signal_iteration: int = 5,
        signal_rank: int = 0,
    ) -> None:
        """
        Args:
            signals: names of signals that process ``signal_rank`` receives when it loads the batch of ``signal_iteration``.
        """
        self.total_batch_size = total_batch_size
        self.start_iteration = start_iteration
        self.signals = signals
        self.signal_iteration = signal_iteration
        self.signal_rank = signal_rank

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        from detectron2.utils import comm

        size = self.total_batch_size // comm.get_world_size()
        iteration = self.start_iteration
        while True:
            if iteration == self.signal_iteration and comm.get_rank() == self.signal_rank:
                for name in self.signals:
                    os.kill(os.getpid(), signal.Signals[name])
            first = iteration * self.total_batch_size + comm.get_rank() * size
            yield [image(index) for index in range(first, first + size)]
            iteration += 1


def tiny_test_loader(count: int = 3) -> list[list[dict[str, Any]]]:
    return [[image(1_000_000 + index)] for index in range(count)]


class TinyEvaluator(DatasetEvaluator):
    """Reports the negative distance to the targets as AP, which grows as the model learns; or the given values.

    Args:
        given: AP after iterations 1, 3, 5, … of a run; empty: the distance.
    """

    def __init__(self, given: Sequence[float] = ()) -> None:
        self.given = given

    def reset(self) -> None:
        self.errors: list[float] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, found in zip(inputs, outputs, strict=True):
            self.errors.append(float((found["instances"].pred_boxes.tensor.cpu() - given["target"]).abs().mean()))

    def evaluate(self) -> dict[str, Any]:
        if self.given:
            return {"bbox": {"AP": self.given[get_event_storage().iter // 2]}}
        return {"bbox": {"AP": -sum(self.errors) / len(self.errors)}}


def all_parameters(model: nn.Module | None = None) -> list[nn.Parameter]:
    """Return all parameters as one group of the optimizer."""
    return list(model.parameters())
