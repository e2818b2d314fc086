"""Videos as RGB frames, read and written by OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from flash_internimage.errors import UserError

_FRAMES_PER_SECOND = 25.0  # where the file does not say


class UnreadableVideo(UserError):
    """A file in which OpenCV finds no frame."""


class Video:
    """The frames of a video file.

    Attributes:
        frames_per_second: as the file says.
        length: number of frames as the file says, which need not be right; 0: unknown.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableVideo: OpenCV finds no frame in it.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(2, "No such file or directory", path)
        self._capture = cv2.VideoCapture(path)
        found, self._first = self._capture.read()
        if not found:
            raise UnreadableVideo(f"{path}: not a readable video (OpenCV finds no frame in it)")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if math.isfinite(rate) and rate > 0 else _FRAMES_PER_SECOND
        self.length = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each frame once, as (H, W, 3) of ``uint8`` in RGB."""
        found, frame = True, self._first
        while found:
            yield np.ascontiguousarray(frame[..., ::-1])
            found, frame = self._capture.read()
        self._capture.release()


def write_video(path: Path, frames: Iterator[np.ndarray], frames_per_second: float) -> None:
    """Write frames, (H, W, 3) of ``uint8`` in RGB and all of one size, as an MP4 file.

    Raises:
        RuntimeError: OpenCV was built without a writer of such files.
    """
    writer: cv2.VideoWriter | None = None
    for frame in frames:
        if writer is None:
            height, width = frame.shape[:2]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, (width, height))
            if not writer.isOpened():
                raise UserError(f"{path}: this OpenCV cannot write MP4 files; install opencv-python-headless")
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    if writer is not None:
        writer.release()
