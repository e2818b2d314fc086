"""What the page computes: detections of an image or video, filtered, drawn and listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from detectron2.structures import Instances

from flash_internimage.evaluation.drawing import draw_instances
from flash_internimage.files import write_atomically
from flash_internimage.inference import Predictor
from flash_internimage.inference.video import Video, write_video
from flash_internimage.structures import select

LOWEST_SCORE = 0.05
"""Detections below this score are not computed; down to it, the threshold can be lowered without a new detection."""

COLUMNS = ["class", "score", "left", "top", "right", "bottom"]
"""Columns of the table of detections; corners in pixels."""


@dataclass(frozen=True)
class Detected:
    """An image and its detections before filtering.

    Attributes:
        image: (H, W, 3) ``uint8`` array in RGB.
        instances: detections, by descending score.
        class_names: class names of the detector.
    """

    image: np.ndarray
    instances: Instances
    class_names: list[str]


def detect(predictor: Predictor, image: np.ndarray) -> Detected:
    """Detect objects in an (H, W, 3) ``uint8`` RGB image."""
    output = cast(dict[str, Any], predictor(image))
    return Detected(image, output["instances"], predictor.class_names)


def filtered(detected: Detected, threshold: float, classes: Sequence[str]) -> Instances:
    """Return the detections that score at least ``threshold`` and are of one of ``classes``.

    Names that the detector does not know are ignored; without any that it knows, all classes are kept.
    """
    instances = detected.instances
    wanted = instances.scores >= threshold
    numbers = [number for number, name in enumerate(detected.class_names) if name in classes]
    if numbers:
        wanted &= instances.pred_classes.new_tensor([c in numbers for c in instances.pred_classes.tolist()], dtype=bool)
    return select(instances, wanted.nonzero()[:, 0])


def drawn(detected: Detected, threshold: float, classes: Sequence[str]) -> np.ndarray:
    """Draw the filtered detections into the image."""
    return draw_instances(detected.image, filtered(detected, threshold, classes), detected.class_names)


def table(detected: Detected, threshold: float, classes: Sequence[str]) -> list[list[Any]]:
    """List the filtered detections, one row of :data:`COLUMNS` each."""
    kept = filtered(detected, threshold, classes)
    rows = zip(kept.pred_classes.tolist(), kept.scores.tolist(), kept.pred_boxes.tensor.tolist(), strict=True)
    return [[detected.class_names[c], round(score, 3), *(round(x, 1) for x in box)] for c, score, box in rows]


def draw_video(
    predictor: Predictor, path: str, folder: Path, threshold: float, classes: Sequence[str], progress: Callable[[float], None]
) -> Path:
    """Detect objects in each frame of a video, and write a video with the filtered detections that browsers play.

    Args:
        path: file of the video.
        folder: folder for the new file.
        progress: called after each frame with the finished part, 0 to 1.

    Returns:
        Path of the new file.

    Raises:
        UnreadableVideo: the file is not a video.
    """
    video = Video(path)
    target = folder / f"{Path(path).stem}_detections.webm"

    def frames() -> Iterator[np.ndarray]:
        for number, frame in enumerate(video, 1):
            yield drawn(detect(predictor, frame), threshold, classes)
            progress(min(number / max(video.length, number), 1.0))

    write_atomically(target, lambda unfinished: write_video(unfinished, frames(), video.frames_per_second))
    return target
