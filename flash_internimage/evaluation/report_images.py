"""Images of the report: those with the most mistakes, with ground truth beside detections."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flash_internimage.images import read_rgb

from .drawing import draw_objects, side_by_side
from .report_figures import data_url
from .report_matching import Boxes, Kind, Matches

_LONGEST_SIDE = 480  # pixels, of ground truth and of detections each

_REMARKS = {
    Kind.WRONG_CLASS: "wrong class",
    Kind.DUPLICATE: "duplicate",
    Kind.POOR_LOCALIZATION: "poor localization",
    Kind.BACKGROUND: "background",
    Kind.IGNORED: "crowd",
}


@dataclass(frozen=True)
class Mistakes:
    """Numbers of mistakes in an image.

    Attributes:
        image: image number.
        missed: number of objects without a correct detection.
        incorrect: number of incorrect detections.
    """

    image: int
    missed: int
    incorrect: int


def count_mistakes(detections: Boxes, objects: Boxes, matches: Matches, num_images: int) -> list[Mistakes]:
    """Count the mistakes in each image."""
    missed = np.bincount(objects.image[~matches.detected & ~objects.crowd], minlength=num_images)
    is_incorrect = matches.above_threshold & ~np.isin(matches.kind, (Kind.CORRECT, Kind.IGNORED))
    incorrect = np.bincount(detections.image[is_incorrect], minlength=num_images)
    return [Mistakes(i, int(m), int(n)) for i, (m, n) in enumerate(zip(missed, incorrect, strict=True))]


def worst(mistakes: Sequence[Mistakes], number: int) -> tuple[list[Mistakes], list[Mistakes]]:
    """Select up to ``number`` images with the most missed objects, and as many others with the most incorrect detections."""
    by_missed = sorted((m for m in mistakes if m.missed), key=lambda m: (-m.missed, -m.incorrect, m.image))[:number]
    shown = {m.image for m in by_missed}
    rest = [m for m in mistakes if m.incorrect and m.image not in shown]
    return by_missed, sorted(rest, key=lambda m: (-m.incorrect, -m.missed, m.image))[:number]


def draw_mistakes(
    file: str | Path, image: int, detections: Boxes, objects: Boxes, matches: Matches, names: Sequence[str]
) -> str:
    """Draw an image's ground truth on the left and its detections on the right, with labeled mistakes, as a data URL.

    Args:
        file: image file.
        image: image number.
        detections: detections of all images.
        objects: ground truth of all images.
        matches: matches between them; only detections above the threshold are drawn.
        names: class names.

    Raises:
        OSError: the file cannot be opened, or is not an image.
        ValueError: the file is corrupt.
    """
    pixels = read_rgb(file)
    factor = _LONGEST_SIDE / max(pixels.shape[:2])
    size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
    pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    t = np.flatnonzero(objects.image == image)
    d = np.flatnonzero((detections.image == image) & matches.above_threshold)
    truth = draw_objects(
        pixels,
        _corners(objects.box[t] * factor),
        objects.category[t].tolist(),
        names,
        scale=1.0,
        labels=["(crowd)" if objects.crowd[i] else "" if matches.detected[i] else "– missed" for i in t],
    )
    found = draw_objects(
        pixels,
        _corners(detections.box[d] * factor),
        detections.category[d].tolist(),
        names,
        scale=1.0,
        labels=[_score_and_remark(detections.score[i], Kind(matches.kind[i])) for i in d],
    )
    buffer = io.BytesIO()
    Image.fromarray(side_by_side(truth, found)).save(buffer, format="JPEG", quality=85)
    return data_url(buffer.getvalue(), "image/jpeg")


def _score_and_remark(score: float, kind: Kind) -> str:
    return f"{score:.0%}" if kind == Kind.CORRECT else f"{score:.0%} – {_REMARKS[kind]}"


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Convert XYWH boxes to XYXY."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
