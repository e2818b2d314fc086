#!/usr/bin/env python
"""Find objects in images and videos; draw them, and list them as COCO does.

    python demo/demo.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py --input street.jpg \\
        --output output/pictures train.init_checkpoint=hf://OpenGVLab/DCNv4/mask_rcnn_flash_internimage_t_fpn_1x_coco.pth
    python demo/demo.py --config-file output/config.yaml --input photos/ 'more/**/*.png' clip.mp4 --output found \\
        --threshold 0.7 train.init_checkpoint=output/model_final.pth
    curl -s https://example.org/a.jpg | python demo/demo.py … --input - --output found

--output gets a picture for each image (.jpg), a video for each video (.mp4), and detections.json: images, categories and
annotations as in an annotation file of COCO, with scores. What cannot be read is skipped with a line on stderr; the exit code
is 0 if everything was read, otherwise 1.
"""

from __future__ import annotations

import os

# As in train_net.py: threads that wait should not spin. OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from flash_internimage import Predictor
from flash_internimage.cli.errors import reported
from flash_internimage.engine.config import load_config
from flash_internimage.errors import UserError
from flash_internimage.evaluation.drawing import draw_instances
from flash_internimage.files import write_atomically
from flash_internimage.images import UnreadableImage, decode_rgb, read_rgb
from flash_internimage.inference.detections import Detections
from flash_internimage.inference.sources import STDIN, Source, find_sources
from flash_internimage.inference.video import UnreadableVideo, Video, write_video

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)+=.*", re.DOTALL)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="LazyConfig file (.py), or the .yaml of a run")
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="images, videos, folders, patterns, or - for standard input"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the folder for pictures and detections.json")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="lowest score that is kept (0.5)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values, such as train.init_checkpoint=PATH")
    args = parser.parse_intermixed_args(argv)
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold {args.threshold}: expected a score from 0 to 1")
    # Behind --input, overrides look like more inputs.
    args.overrides += [text for text in args.input if _OVERRIDE.fullmatch(text) and not Path(text).exists()]
    args.input = [text for text in args.input if text not in args.overrides]
    return args


def check_output(output: Path, sources: Sequence[Source]) -> None:
    """Raise an error if a picture could be written over an input.

    Raises:
        UserError: an input lies in the output folder.
    """
    folder = output.resolve()
    inside = [source.path for source in sources if source.path != STDIN and Path(source.path).resolve().parent == folder]
    if inside:
        raise UserError(f"--output {output}: holds an input, {inside[0]}, which could be overwritten; choose another folder")


def read_source(source: Source) -> np.ndarray | Video:
    """An image, (H, W, 3) in RGB, or an opened video."""
    if source.path == STDIN:
        return decode_rgb(sys.stdin.buffer.read(), "standard input")
    return Video(source.path) if source.is_video else read_rgb(source.path)


class Demo:
    """Detects, draws and lists, one source after the other.

    Args:
        output: the folder for the pictures.
    """

    def __init__(self, predictor: Predictor, output: Path) -> None:
        self.predictor = predictor
        self.output = output
        self.detections = Detections(predictor.class_names)

    def picture(self, source: Source, image: np.ndarray) -> None:
        """Write an image with its detections as ``NAME.jpg``."""
        target = self.output / f"{source.name}.jpg"
        picture = Image.fromarray(self._drawn(source, image, target.name))
        write_atomically(target, lambda path: picture.save(path, format="JPEG", quality=92, subsampling=0))

    def video(self, source: Source, video: Video) -> None:
        """Write a video with the detections of each frame as ``NAME.mp4``."""
        target = self.output / f"{source.name}.mp4"

        def frames() -> Iterator[np.ndarray]:
            with tqdm(video, desc=source.name, total=video.length or None, unit="frame", leave=False) as progress:
                for number, frame in enumerate(progress):
                    yield self._drawn(source, frame, target.name, number)

        write_atomically(target, lambda path: write_video(path, frames(), video.frames_per_second))

    def write_detections(self) -> None:
        """Write ``detections.json``."""
        text = json.dumps(self.detections.as_coco())
        write_atomically(self.output / "detections.json", lambda path: path.write_text(text))

    def _drawn(self, source: Source, image: np.ndarray, drawn: str, frame: int | None = None) -> np.ndarray:
        instances = self.predictor(image)["instances"]
        self.detections.add(source.path, instances, drawn, frame)
        return draw_instances(image, instances, self.predictor.class_names)


def run(args: argparse.Namespace) -> int:
    """The number of inputs that could not be read."""
    sources, passed_over = find_sources(args.input)
    check_output(args.output, sources)
    predictor = Predictor(load_config(args.config_file, args.overrides, eval_only=True), min_score=args.threshold)
    args.output.mkdir(parents=True, exist_ok=True)
    demo = Demo(predictor, args.output)
    skipped = 0
    try:
        for source in tqdm(sources, desc="detecting", unit="file"):
            try:
                contents = read_source(source)
            except (OSError, UnreadableImage, UnreadableVideo) as error:
                reason = f"{source.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
                tqdm.write(f"demo.py: skipped {reason}", file=sys.stderr)
                skipped += 1
                continue
            if isinstance(contents, Video):
                demo.video(source, contents)
            else:
                demo.picture(source, contents)
    finally:
        demo.write_detections()  # also of a run that is stopped half-way: its pictures are there
    if passed_over:
        tqdm.write(f"demo.py: {len(passed_over)} files are neither images nor videos: {', '.join(passed_over[:3])}", sys.stderr)
    done = f"{len(sources) - skipped} of {len(sources)} inputs" if skipped else f"{len(sources)} inputs"
    print(f"{done}, {demo.detections.number_of_objects} objects: pictures and detections.json are in {args.output}")
    return skipped


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    with reported("demo.py"):
        skipped = run(args)
    sys.exit(1 if skipped else 0)


if __name__ == "__main__":
    main()
