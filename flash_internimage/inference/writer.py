"""Runs a predictor on images and videos, and writes visualizations and a COCO annotation file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from tqdm import tqdm

from flash_internimage.errors import UserError
from flash_internimage.evaluation.drawing import draw_instances
from flash_internimage.files import write_atomically
from flash_internimage.images import decode_rgb, read_rgb

from .detections import Detections
from .predictor import Predictor
from .sources import STDIN, Source
from .video import Video, write_video


class DetectionWriter:
    """Detects objects in one source after the other, writes visualizations, and collects detections for ``detections.json``.

    Args:
        output: folder for the files, which exists.

    Attributes:
        detections: the detections so far.
    """

    def __init__(self, predictor: Predictor, output: Path) -> None:
        self.predictor = predictor
        self.output = output
        self.detections = Detections(predictor.categories)

    def write(self, source: Source, contents: np.ndarray | Video) -> None:
        """Write the visualization of an image or a video.

        Args:
            contents: what :func:`read_source` returned for ``source``.
        """
        if isinstance(contents, Video):
            self._write_video(source, contents)
        else:
            self._write_image(source, contents)

    def write_detections(self) -> None:
        """Write ``detections.json``."""
        text = json.dumps(self.detections.as_coco())
        write_atomically(self.output / "detections.json", lambda path: path.write_text(text, encoding="utf-8"))

    def _write_image(self, source: Source, image: np.ndarray) -> None:
        target = self.output / f"{source.name}.jpg"
        drawn = Image.fromarray(self._draw(source, image, target.name))
        write_atomically(target, lambda path: drawn.save(path, format="JPEG", quality=92, subsampling=0))

    def _write_video(self, source: Source, video: Video) -> None:
        target = self.output / f"{source.name}.mp4"

        def frames() -> Iterator[np.ndarray]:
            with tqdm(video, desc=source.name, total=video.length or None, unit="frame", leave=False) as progress:
                for number, frame in enumerate(progress):
                    yield self._draw(source, frame, target.name, number)

        write_atomically(target, lambda path: write_video(path, frames(), video.frames_per_second))

    def _draw(self, source: Source, image: np.ndarray, file_name: str, frame: int | None = None) -> np.ndarray:
        instances = cast(dict[str, Any], self.predictor(image))["instances"]
        self.detections.add(source.path, instances, file_name, frame)
        return draw_instances(image, instances, self.predictor.class_names)


def read_source(source: Source) -> np.ndarray | Video:
    """Read an image as (H, W, 3) of ``uint8`` in RGB, or open a video.

    Raises:
        OSError: the file cannot be opened.
        UnreadableImage: the file is not an image, or is corrupt.
        UnreadableVideo: OpenCV finds no frame in it.
    """
    if source.path == STDIN:
        return decode_rgb(sys.stdin.buffer.read(), "standard input")
    return Video(source.path) if source.is_video else read_rgb(source.path)


def require_separate_output(output: Path, sources: Sequence[Source]) -> None:
    """Raise an error if a visualization could overwrite an input.

    Raises:
        UserError: an input lies in the output folder.
    """
    folder = output.resolve()
    inside = [source.path for source in sources if source.path != STDIN and Path(source.path).resolve().parent == folder]
    if inside:
        raise UserError(f"--output {output}: holds an input, {inside[0]}, which could be overwritten; choose another folder")
