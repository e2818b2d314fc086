"""Runs a predictor on images and videos, and writes visualizations and a COCO annotation file."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from flash_internimage.errors import UserError
from flash_internimage.evaluation.drawing import draw_instances
from flash_internimage.files import write_atomically
from flash_internimage.images import UnreadableImage, decode_rgb, read_rgb
from flash_internimage.structures import select

from .detections import Detections
from .predictor import Predictor
from .prefetch import prefetch, prefetch_map
from .sources import STDIN, Source
from .tracking import Tracker
from .video import UnreadableVideo, Video, write_video

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """An image, or a frame of a video.

    Attributes:
        source: where it comes from.
        image: (H, W, 3) ``uint8`` array in RGB.
        number: index of the frame in the video, from 0; None for an image.
    """

    source: Source
    image: np.ndarray
    number: int | None = None


class DetectionWriter:
    """Detects objects in sources, writes visualizations, and collects detections for ``detections.json``.

    Args:
        predictor: detects objects; for tracking, with scores from :data:`.tracking.LOW_SCORE` on.
        output: folder for the files, which exists.
        min_score: detections with lower scores are dropped, except from a track.
        track: whether to give the objects in videos ids that stay the same.

    Attributes:
        detections: the detections in the files that are written so far.
    """

    def __init__(self, predictor: Predictor, output: Path, min_score: float = 0.0, track: bool = False) -> None:
        self.predictor = predictor
        self.output = output
        self.detections = Detections(predictor.categories)
        self._min_score = min_score
        self._track = track

    def write(self, sources: Sequence[Source]) -> Iterator[tuple[Source, str | None]]:
        """Write the visualizations of images and videos, whose files are prefetched.

        Yields:
            Each source when it is done, with None; or with the reason why it was skipped.
        """
        for is_video, group in itertools.groupby(sources, lambda source: source.is_video):
            run = list(group)
            yield from map(self._write_video, run) if is_video else self._write_images(run)

    def write_detections(self) -> None:
        """Write ``detections.json``."""
        text = json.dumps(self.detections.as_coco())
        write_atomically(self.output / "detections.json", lambda path: path.write_text(text, encoding="utf-8"))

    def _write_images(self, sources: Iterable[Source]) -> Iterator[tuple[Source, str | None]]:
        skipped: deque[tuple[Source, str]] = deque()

        def frames() -> Iterator[Frame]:
            for source, contents in prefetch_map(lambda s: (s, _read(s)), sources, ahead=self.predictor.batch_size):
                if isinstance(contents, str):
                    skipped.append((source, contents))
                elif isinstance(contents, np.ndarray):
                    yield Frame(source, contents)

        for frame, instances in self._detected(frames()):
            while skipped:
                yield skipped.popleft()
            target = self.output / f"{frame.source.name}.jpg"
            kept = self._above_threshold(instances)
            drawn = Image.fromarray(self._draw(frame, kept))
            write_atomically(target, partial(drawn.save, format="JPEG", quality=92, subsampling=0))
            self.detections.add(frame.source.label, kept, target.name)
            yield frame.source, None
        yield from skipped

    def _write_video(self, source: Source) -> tuple[Source, str | None]:
        video = _read(source)
        if not isinstance(video, Video):
            return source, str(video)
        target = self.output / f"{source.name}.mp4"
        detections = Detections(self.predictor.categories)
        frames = self._video_frames(source, video, target.name, detections)
        with until_interrupted(frames) if video.is_live else contextlib.nullcontext(frames) as shown:
            write_atomically(target, lambda path: write_video(path, shown, video.frames_per_second))
        self.detections.extend(detections)
        return source, None

    def _video_frames(self, source: Source, video: Video, file_name: str, detections: Detections) -> Iterator[np.ndarray]:
        """Yield the visualizations of the frames, and add their detections to ``detections``."""
        keep: Callable[[Instances], Instances] = self._above_threshold
        if self._track:
            keep = Tracker(self._min_score, video.frames_per_second).update
        images = prefetch(video, self.predictor.batch_size)
        frames = (Frame(source, image, number) for number, image in enumerate(images))
        with tqdm(desc=source.name, total=video.length or None, unit="frame", leave=False) as progress:
            for frame, instances in self._detected(frames):
                kept = keep(instances)
                detections.add(source.label, kept, file_name, frame.number)
                yield self._draw(frame, kept)
                progress.update()

    def _detected(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Instances]]:
        """Yield each frame with its detections; the predictor prefetches some frames."""
        waiting: deque[Frame] = deque()

        def images() -> Iterator[np.ndarray]:
            for frame in frames:
                waiting.append(frame)
                yield frame.image

        for output in self.predictor.stream(images()):
            yield waiting.popleft(), output["instances"]

    def _above_threshold(self, instances: Instances) -> Instances:
        return select(instances, (instances.scores >= self._min_score).nonzero()[:, 0])

    def _draw(self, frame: Frame, instances: Instances) -> np.ndarray:
        return draw_instances(frame.image, instances, self.predictor.class_names)


@contextlib.contextmanager
def until_interrupted(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """Inside the context, Ctrl-C ends an iterator after the current item.

    What the consumer does with an item is not interrupted, so that it can finish its file. Ctrl-C before the first item, and a
    second one, raise KeyboardInterrupt. Without effect outside the main thread, which alone can handle signals, and where
    SIGINT is ignored or has another handler.
    """
    started = stopped = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped or not started:
            raise KeyboardInterrupt
        stopped = True

    def iterate() -> Iterator[T]:
        nonlocal started
        for item in items:
            started = True
            yield item
            if stopped:
                return

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield iterate()
        return
    signal.signal(signal.SIGINT, receive)
    try:
        yield iterate()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def read_source(source: Source) -> np.ndarray | Video:
    """Read an image as (H, W, 3) of ``uint8`` in RGB, or open a video.

    Raises:
        OSError: the file cannot be opened.
        UnreadableImage: the file is not an image, or is corrupt.
        UnreadableVideo: OpenCV finds no frame in it.
    """
    if source.path == STDIN:
        return decode_rgb(sys.stdin.buffer.read(), "standard input")
    return Video(source) if source.is_video else read_rgb(source.path)


def _read(source: Source) -> np.ndarray | Video | str:
    """Read a source; if it cannot be read, return the reason."""
    try:
        return read_source(source)
    except (OSError, UnreadableImage, UnreadableVideo) as error:
        return f"{source.label}: {error.strerror}" if isinstance(error, OSError) else str(error)


def require_separate_output(output: Path, sources: Sequence[Source]) -> None:
    """Raise an error if a visualization could overwrite an input.

    Raises:
        UserError: an input lies in the output folder.
    """
    folder = output.resolve()
    inside = [source.path for source in sources if source.is_file and Path(source.path).resolve().parent == folder]
    if inside:
        raise UserError(f"--output {output}: holds an input, {inside[0]}, which could be overwritten; choose another folder")
