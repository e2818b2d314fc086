"""The report's pictures: the images with most mistakes, ground truth beside detections."""

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

_LONGEST_SIDE = 480  # pixels of one half of a picture

_REMARKS = {
    Kind.WRONG_CLASS: "wrong class",
    Kind.DUPLICATE: "again",
    Kind.BADLY_PLACED: "badly placed",
    Kind.BACKGROUND: "no object",
    Kind.IGNORED: "in a crowd",
}


@dataclass(frozen=True)
class Mistakes:
    """What went wrong in an image.

    Attributes:
        image: its number.
        missed: objects without a correct detection.
        wrong: detections that are not correct.
    """

    image: int
    missed: int
    wrong: int


def count_mistakes(detections: Boxes, objects: Boxes, matches: Matches, num_images: int) -> list[Mistakes]:
    """The mistakes in each image."""
    missed = np.bincount(objects.image[~matches.found & ~objects.crowd], minlength=num_images)
    is_wrong = matches.counted & ~np.isin(matches.kind, (Kind.CORRECT, Kind.IGNORED))
    wrong = np.bincount(detections.image[is_wrong], minlength=num_images)
    return [Mistakes(i, int(m), int(w)) for i, (m, w) in enumerate(zip(missed, wrong, strict=True))]


def worst(mistakes: Sequence[Mistakes], number: int) -> tuple[list[Mistakes], list[Mistakes]]:
    """The images with most missed objects, and of the others those with most wrong detections; each at most ``number``."""
    by_missed = sorted((m for m in mistakes if m.missed), key=lambda m: (-m.missed, -m.wrong, m.image))[:number]
    shown = {m.image for m in by_missed}
    rest = [m for m in mistakes if m.wrong and m.image not in shown]
    return by_missed, sorted(rest, key=lambda m: (-m.wrong, -m.missed, m.image))[:number]


def draw_mistakes(
    file: str | Path, image: int, detections: Boxes, objects: Boxes, matches: Matches, names: Sequence[str]
) -> str:
    """One image with its objects on the left and its counted detections on the right, mistakes named, as a data URL.

    Args:
        file: of the image.
        image: its number.

    Raises:
        OSError: the file cannot be opened, or is no image.
        ValueError: likewise.
    """
    pixels = read_rgb(file)
    factor = _LONGEST_SIDE / max(pixels.shape[:2])
    size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
    pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    t = np.flatnonzero(objects.image == image)
    d = np.flatnonzero((detections.image == image) & matches.counted)
    truth = draw_objects(
        pixels,
        _corners(objects.box[t] * factor),
        objects.category[t].tolist(),
        names,
        scale=1.0,
        labels=["(crowd)" if objects.crowd[i] else "" if matches.found[i] else "– missed" for i in t],
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
    """XYWH to XYXY."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
