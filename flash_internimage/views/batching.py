"""Batches of images of one padded size, whose detections do not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from flash_internimage.modeling.preprocessing import padding_rule

T = TypeVar("T")
R = TypeVar("R")

_LOOKAHEAD = 4  # batches of items that are held back while their batch is incomplete


def batches_of_equals(items: Iterable[T], key: Callable[[T], Hashable], size: int) -> Iterator[list[tuple[int, T]]]:
    """Collect items with equal keys into batches, each item with its position.

    At most ``4 * size`` items wait for others; then the batch of the oldest one is yielded although it is incomplete.

    Args:
        size: number of items per batch.
    """
    waiting: dict[Hashable, list[tuple[int, T]]] = {}  # by the position of the first item
    for position, item in enumerate(items):
        group = key(item)
        waiting.setdefault(group, []).append((position, item))
        if len(waiting[group]) == size:
            yield waiting.pop(group)
        elif sum(map(len, waiting.values())) >= _LOOKAHEAD * size:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def in_order(numbered: Iterable[tuple[int, R]]) -> Iterator[R]:
    """Yield results by position: 0, 1, ...; each as soon as those before it have come."""
    early: dict[int, R] = {}
    position = 0
    for number, result in numbered:
        early[number] = result
        while position in early:
            yield early.pop(position)
            position += 1


def detect_in_batches(
    detect: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]]],
    samples: Iterable[dict[str, Any]],
    size: int,
    divisor: int,
) -> Iterator[dict[str, Any]]:
    """Run a model on batches of samples; yield its outputs in the order of the samples.

    Padding changes what a network computes near the border of an image. A batch therefore has only images that are padded to
    the same size, which is the size to which each is padded alone.

    Args:
        detect: the model.
        samples: inputs of the model, with ``image`` (3, H, W).
        size: images per batch.
        divisor: the model pads heights and widths to multiples of this, in pixels.
    """

    def padded_size(sample: dict[str, Any]) -> Hashable:
        image: Tensor = sample["image"]
        return tuple(-(-side // divisor) for side in image.shape[1:])

    def outputs() -> Iterator[tuple[int, dict[str, Any]]]:
        for batch in batches_of_equals(samples, padded_size, size):
            found = detect([sample for _, sample in batch])
            yield from zip((position for position, _ in batch), found, strict=True)

    return in_order(outputs())


def padding_divisor(model: nn.Module) -> int:
    """The number of pixels of which a model pads heights and widths to a multiple; 1 if it is unknown."""
    backbone: Any = getattr(model, "backbone", None)
    return 1 if backbone is None else max(padding_rule(backbone)[0], 1)
