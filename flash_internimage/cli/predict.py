"""Detect objects in images and videos; write visualizations and a list of the detections in COCO format.

Examples:

  a published detector, with its published checkpoint:
    flash-internimage predict --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco --source street.jpg --output found

  a checkpoint of your own, on a folder, a pattern and a video:
    flash-internimage predict --config-file output/config.yaml --weights output/model_final.pth --threshold 0.7 \\
        --source photos 'more/**/*.png' clip.mp4 --output found

  an exported file:
    flash-internimage predict --weights model.onnx --source street.jpg --output found

  an image from standard input:
    cat street.jpg | flash-internimage predict --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco \\
        --source - --output found

The output folder gets a visualization of each image (.jpg) and video (.mp4), and detections.json: images, categories and
annotations as in a COCO annotation file, with scores.

A source that cannot be read is skipped with a line on stderr, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from flash_internimage.engine.config import load_config
from flash_internimage.export.runtime import is_exported
from flash_internimage.images import UnreadableImage
from flash_internimage.inference import Predictor
from flash_internimage.inference.sources import find_sources
from flash_internimage.inference.video import UnreadableVideo
from flash_internimage.inference.writer import DetectionWriter, read_source, require_separate_output

from . import PROGRAM
from .arguments import (
    add_config,
    add_output,
    add_overrides,
    add_threshold,
    add_weights,
    config_path,
    overrides_with_weights,
)
from .errors import UsageError

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)+=.*", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, unless="with an exported file as --weights")
    parser.add_argument(
        "--source", required=True, nargs="+", metavar="PATH", help="images, videos, folders, patterns, or - for standard input"
    )
    add_output(parser, "the visualizations and detections.json", required=True)
    add_weights(parser)
    add_threshold(parser, "kept")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    # An override that follows --source is parsed as one more source.
    args.overrides += [text for text in args.source if _OVERRIDE.fullmatch(text) and not Path(text).exists()]
    sources, ignored = find_sources(text for text in args.source if text not in args.overrides)
    require_separate_output(args.output, sources)
    if args.config_file is not None:
        cfg = load_config(
            config_path(args.config_file), overrides_with_weights(args), eval_only=True, trust_config=args.trust_config
        )
        predictor = Predictor(cfg, min_score=args.threshold)
    elif args.weights is not None and is_exported(args.weights) and not args.overrides:
        predictor = Predictor(args.weights, min_score=args.threshold)
    else:
        raise UsageError("--config-file: needed, except with an exported file as --weights and without overrides")
    args.output.mkdir(parents=True, exist_ok=True)
    writer = DetectionWriter(predictor, args.output)
    skipped = 0
    try:
        for source in tqdm(sources, desc="detecting", unit="file"):
            try:
                contents = read_source(source)
            except (OSError, UnreadableImage, UnreadableVideo) as error:
                reason = f"{source.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
                print_above_bar(f"skipped {reason}")
                skipped += 1
                continue
            writer.write(source, contents)
    finally:
        writer.write_detections()  # also after an interrupt: the visualizations up to then exist
    if ignored:
        print_above_bar(f"{len(ignored)} files are neither images nor videos: {', '.join(ignored[:3])}")
    done = f"{len(sources) - skipped} of {len(sources)} sources" if skipped else f"{len(sources)} sources"
    objects = writer.detections.number_of_objects
    print(f"{done}, {objects} objects: visualizations and detections.json are in {args.output}")
    return 1 if skipped else 0


def print_above_bar(message: str) -> None:
    """Print a message on stderr without breaking the progress bar."""
    tqdm.write(f"{PROGRAM} predict: {message}", file=sys.stderr)
