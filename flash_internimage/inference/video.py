"""Reading and writing of videos as RGB frames, with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from flash_internimage.errors import UserError

_DEFAULT_FPS = 25.0  # for files without a frame rate
_CODECS = {".mp4": "mp4v", ".webm": "VP80"}  # the second one is slower to write, but plays in browsers


class UnreadableVideo(UserError):
    """Raised for a file from which OpenCV cannot read a frame."""


class Video:
    """Iterable over the frames of a video file.

    Attributes:
        frames_per_second: frame rate according to the file.
        length: number of frames according to the file, which may be wrong; 0 if unknown.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableVideo: OpenCV cannot read a frame from it.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(2, "No such file or directory", path)
        self._capture = cv2.VideoCapture(path)
        found, self._first = self._capture.read()
        if not found:
            raise UnreadableVideo(f"{path}: not a readable video (OpenCV cannot read a frame from it)")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if math.isfinite(rate) and rate > 0 else _DEFAULT_FPS
        self.length = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each frame once, as an (H, W, 3) ``uint8`` array in RGB."""
        found, frame = True, self._first
        while found:
            yield np.ascontiguousarray(frame[..., ::-1])
            found, frame = self._capture.read()
        self._capture.release()


def write_video(path: Path, frames: Iterator[np.ndarray], frames_per_second: float) -> None:
    """Write frames, (H, W, 3) ``uint8`` arrays in RGB of the same size, to an MP4 or WebM file.

    Raises:
        UserError: OpenCV was built without support for writing such files.
    """
    writer: cv2.VideoWriter | None = None
    for frame in frames:
        if writer is None:
            height, width = frame.shape[:2]
            writer = cv2.VideoWriter(
                str(path), cv2.VideoWriter.fourcc(*_CODECS[path.suffix]), frames_per_second, (width, height)
            )
            if not writer.isOpened():
                raise UserError(f"{path}: this OpenCV cannot write {path.suffix} files; install opencv-python-headless")
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    if writer is not None:
        writer.release()
