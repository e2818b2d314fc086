"""Reading of videos, cameras and streams, and writing of videos, as RGB frames with OpenCV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flash_internimage.errors import UserError

from .sources import Source

_DEFAULT_FPS = 25.0  # for sources without a frame rate
_MAX_FPS = 240.0  # some cameras and streams report their clock as the frame rate
_TIMEOUT = 10_000  # milliseconds until a stream that sends nothing is given up
_CODECS = {".mp4": "mp4v", ".webm": "VP80"}  # the second one is slower to write, but plays in browsers


class UnreadableVideo(UserError):
    """Raised for a source from which OpenCV cannot read a frame."""


class Video:
    """Iterable over the frames of a video file, a camera or a stream.

    Args:
        source: the source, or the path of a file.

    Attributes:
        frames_per_second: frame rate according to the source.
        length: number of frames according to the file, which may be wrong; 0 if unknown.
        is_live: whether it has no known end.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableVideo: OpenCV cannot read a frame from it.
    """

    def __init__(self, source: Source | str) -> None:
        source = Source(source, Path(source).stem) if isinstance(source, str) else source
        if source.is_file and not Path(source.path).is_file():
            raise FileNotFoundError(2, "No such file or directory", source.path)
        self._capture = open_capture(source)
        found, self._first = self._capture.read()
        if not found:
            self._capture.release()
            kind = "camera" if source.is_camera else "stream" if source.is_url else "video"
            name = f"camera {source.path}" if source.is_camera else source.label
            raise UnreadableVideo(f"{name}: not a readable {kind} (OpenCV cannot read a frame from it)")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frames_per_second = rate if math.isfinite(rate) and 0 < rate <= _MAX_FPS else _DEFAULT_FPS
        self.length = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self.is_live = source.is_camera or (source.is_url and not self.length)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield each frame once, as an (H, W, 3) ``uint8`` array in RGB."""
        found, frame = True, self._first
        try:
            while found:
                yield np.ascontiguousarray(frame[..., ::-1])
                found, frame = self._capture.read()
        finally:
            self._capture.release()


def open_capture(source: Source) -> Any:
    """Open a source with OpenCV."""
    if source.is_camera:
        return cv2.VideoCapture(int(source.path))
    if source.is_url:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT]
        return cv2.VideoCapture(source.path, cv2.CAP_FFMPEG, timeouts)
    return cv2.VideoCapture(source.path)


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
