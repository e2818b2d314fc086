"""Comparison of an exported file with its model: every output, at two sizes and the smallest one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.precision import DTYPES

from .metadata import Metadata
from .runtime import Detect, load


class VerificationError(UserError):
    """Raised for a file whose detections are not those of its model."""


@dataclass(frozen=True)
class Tolerance:
    """Largest differences between the detections of a file and of its model.

    Attributes:
        box: in pixels of the resized image.
        side: in parts of the longer side of a box; added to ``box``.
        score: of scores.
        mask: of mask probabilities.
        unmatched: fraction of the detections that may be unmatched, since scores or IoUs near a threshold may cross it.
    """

    box: float
    side: float
    score: float
    mask: float
    unmatched: float

    def __str__(self) -> str:
        side = f" and {self.side:.1%} of the box" if self.side else ""
        return (
            f"{self.box:g} px{side} for boxes, {self.score:g} for scores, {self.mask:g} for masks and {self.unmatched:.1%} of "
            "them without a partner"
        )

    def of_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(K,): largest difference of each of the (K, 4) XYXY boxes, in pixels."""
        return self.box + self.side * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)


TOLERANCE = Tolerance(box=0.1, side=0.0, score=1e-3, mask=0.01, unmatched=0.01)
"""For files in float32."""

_ROUNDINGS = 32


def tolerance_of(precision: str) -> Tolerance:
    """The tolerance for files whose layers compute in a precision of :data:`flash_internimage.precision.DTYPES`.

    A layer rounds its input, its weights and its output, each by at most half an epsilon. Rounding errors are independent, so
    that those of n layers add up to about sqrt(3 n) times that: a detector has 100 to 350 layers one after the other, which
    gives 17 to 32. Box deltas, logits of scores near a threshold and of mask borders are of the order of 1.
    """
    if precision == "fp32":
        return TOLERANCE
    relative = _ROUNDINGS * torch.finfo(DTYPES[precision]).eps / 2
    return Tolerance(
        *(exact + more for exact, more in zip(astuple(TOLERANCE), (0.0, relative, relative, relative, relative), strict=True))
    )


@dataclass(frozen=True)
class Comparison:
    """Differences of one batch.

    Attributes:
        images: shape of the batch, as text.
        detections: number of detections of the model.
        unmatched: number of detections of the model or the file that have no counterpart in the other.
        box, score, mask: largest differences of matched detections; mask is None without masks. Only boxes and scores within
            the tolerance are matched.
    """

    images: str
    detections: int
    unmatched: int
    box: float
    score: float
    mask: float | None

    def __str__(self) -> str:
        mask = "" if self.mask is None else f", masks {self.mask:.1e}"
        return (
            f"{self.images}: {self.detections} detections, {self.unmatched} without a partner; largest differences: "
            f"boxes {self.box:.1e} px, scores {self.score:.1e}{mask}"
        )

    def is_within(self, tolerance: Tolerance) -> bool:
        return (
            self.score <= tolerance.score
            and (self.mask is None or self.mask <= tolerance.mask)
            and self.unmatched <= tolerance.unmatched * max(self.detections, 1)
        )


@torch.no_grad()
def verify(detector: nn.Module, path: str | os.PathLike[str], runtime: str | None = None) -> Iterator[Comparison]:
    """Compare a file with its detector, batch by batch.

    Args:
        detector: function of images and sizes, as :func:`.detector.exportable_detector` returns it.
        path: the file.
        runtime: "openvino", or None for the usual runtime of the format.

    Yields:
        The comparison of each batch, also of one that exceeds the tolerance.

    Raises:
        VerificationError: after the last batch, if one exceeds the tolerance or there were no detections to compare.
    """
    run, metadata = load(path, runtime=runtime)
    tolerance = tolerance_of(metadata.precision)
    failed, total = [], 0
    for images, sizes in example_batches(metadata):
        comparison = compare(detector(images, sizes), run(images, sizes), " x ".join(map(str, images.shape)), tolerance)
        yield comparison
        total += comparison.detections
        if not comparison.is_within(tolerance):
            failed.append(comparison.images)
    if failed:
        raise VerificationError(
            f"export: the detections of the file should be those of the model, up to {tolerance}, but differ by more for "
            f"images of {' and '.join(failed)}; no file was written; "
            + (
                "try another --target, or --format pt2"
                if metadata.precision == "fp32"
                else f"without --precision {metadata.precision} the rounding is smaller"
            )
        )
    if total == 0:
        raise VerificationError(
            "export: the model finds nothing in the images of the verification, so that there is nothing to compare; "
            "lower its score threshold (for instance model.roi_heads.box_predictor.test_score_thresh=0.0)"
        )


def example_batches(metadata: Metadata) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of synthetic images; most are smaller than their batch. If the file takes any size: two sizes and the smallest.

    Images have blobs of colors, edges and noise.
    """
    if metadata.height is not None and metadata.width is not None:
        shapes = [(metadata.height, metadata.width)] * 2
    else:
        # Smaller than the model's own size, which saves time; landscape and portrait.
        short, middle = (metadata.padded(metadata.short_side * part // 4) for part in (3, 4))
        shapes = [(short, middle), (metadata.padded(middle + 1), short), (metadata.padded(1), metadata.padded(1))]
    generator = np.random.RandomState(0)
    for number, (height, width) in enumerate(shapes):
        images = np.stack([_image(generator, height, width) for _ in range(metadata.batch)])
        sizes = [(height - 7 * (i + number), width - 5 * (i + number)) for i in range(metadata.batch)]
        yield torch.from_numpy(images), torch.tensor(sizes).clamp(min=8)


def compare(expected: Sequence[Tensor], given: Sequence[Tensor], images: str, tolerance: Tolerance) -> Comparison:
    """Match the detections of each image one to one, by class, score and box, and return the largest differences."""
    detections = unmatched = 0
    rows = len(expected[1][0])
    largest = np.zeros(3)
    for row in range(len(expected[0])):
        ours, theirs = ([x[row].float().numpy() for x in outputs] for outputs in (expected, given))
        ours, theirs = (_cut(arrays) for arrays in (ours, theirs))
        pairs = match(ours, theirs, tolerance)
        detections += len(ours[0])
        unmatched += _unmatched(ours, [i for i, _ in pairs], rows, tolerance)
        unmatched += _unmatched(theirs, [j for _, j in pairs], rows, tolerance)
        for i, j in pairs:
            for number, k in enumerate((0, 1, 4)[: len(ours) - 2]):
                largest[number] = max(largest[number], float(np.abs(ours[k][i] - theirs[k][j]).max()))
    mask = float(largest[2]) if len(expected) > 4 else None
    return Comparison(images, detections, unmatched, float(largest[0]), float(largest[1]), mask)


def match(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], tolerance: Tolerance) -> list[tuple[int, int]]:
    """Match detections that agree, one to one, nearest boxes of a class first; return pairs of indices."""
    boxes = np.abs(ours[0][:, None] - theirs[0][None]).max(axis=2)
    scores = np.abs(ours[1][:, None] - theirs[1][None])
    possible = (
        (boxes <= tolerance.of_boxes(ours[0])[:, None]) & (scores <= tolerance.score) & (ours[2][:, None] == theirs[2][None])
    )
    pairs = []
    for i, j in sorted(np.argwhere(possible).tolist(), key=lambda pair: boxes[tuple(pair)] + scores[tuple(pair)]):
        if possible[i, j]:
            pairs.append((i, j))
            possible[i] = False
            possible[:, j] = False
    return pairs


def _unmatched(arrays: Sequence[np.ndarray], matched: Sequence[int], rows: int, tolerance: Tolerance) -> int:
    """Number of detections without a counterpart.

    In an image with more detections than rows, one whose score is the lowest, within the tolerance, may have lost its place to
    another. This excuses the lower half of the rows at most.
    """
    scores = arrays[1]
    left = np.ones(len(scores), bool)
    left[list(matched)] = False
    if len(scores) == rows:
        half = (rows + 1) // 2
        left[half:] &= scores[half:] > scores[half:].min(initial=np.inf) + tolerance.score
    return int(left.sum())


def _cut(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Remove the padding rows from the outputs for one image."""
    count = int(arrays[3])
    return [array if array.ndim == 0 else array[:count] for array in arrays]


def _image(generator: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """(3, height, width) ``uint8``: a coarse color pattern, rectangles and noise."""
    coarse = generator.randint(0, 256, (3, height // 16 + 1, width // 16 + 1))
    image = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width].astype(float) * 0.3 + 60
    for _ in range(6):
        top, left = generator.randint(0, height * 3 // 4), generator.randint(0, width * 3 // 4)
        tall, wide = generator.randint(height // 8, height // 2), generator.randint(width // 8, width // 2)
        image[:, top : top + tall, left : left + wide] = generator.randint(0, 256, (3, 1, 1))
    return (image + generator.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8)


__all__ = ["Comparison", "Detect", "Tolerance", "VerificationError", "compare", "example_batches", "match", "verify"]
