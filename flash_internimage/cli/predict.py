"""Detect objects in images and videos; write visualizations and a list of the detections in COCO format.

Examples:

  a published detector, with its published checkpoint:
    flash-internimage predict --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco --source street.jpg --output found

  a checkpoint of your own, on a folder, a pattern and a video:
    flash-internimage predict --config-file output/config.yaml --weights output/model_final.pth --threshold 0.7 \\
        --source photos 'more/**/*.png' clip.mp4 --output found

  an exported file:
    flash-internimage predict --weights model.onnx --source street.jpg --output found

  small objects in large images, and batches on a GPU:
    flash-internimage predict --config-file output/config.yaml --weights output/model_final.pth --tile 640 \\
        --batch-size 8 --precision fp16 --source aerial/ --output found

  a camera (by its number) and a stream, with ids of the objects, until Ctrl-C:
    flash-internimage predict --config-file output/config.yaml --weights output/model_final.pth --track \\
        --source 0 rtsp://camera.local/stream --output found

  an image from standard input:
    cat street.jpg | flash-internimage predict --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco \\
        --source - --output found

The output folder gets a visualization of each image (.jpg) and video (.mp4), and detections.json: images, categories and
annotations as in a COCO annotation file, with scores and, with --track, track_id.

A source that cannot be read is skipped with a line on stderr, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from flash_internimage.export.runtime import ExportedDetector
from flash_internimage.inference import Predictor
from flash_internimage.inference.execution import has_fast_bfloat16
from flash_internimage.inference.sources import find_sources
from flash_internimage.inference.tracking import LOW_SCORE, require_tracker
from flash_internimage.inference.writer import DetectionWriter, require_separate_output
from flash_internimage.plurals import counted
from flash_internimage.precision import DTYPES

from . import PROGRAM
from .arguments import (
    add_config,
    add_output,
    add_overrides,
    add_threshold,
    add_views,
    add_weights,
    positive,
    view_options,
)
from .chosen_model import chosen_model

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.\w+)+=.*", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, unless="with an exported file as --weights")
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        metavar="SOURCE",
        help="images, videos, folders, patterns, text files that list these, the number of a camera, URLs of videos and "
        "streams, or - for standard input",
    )
    add_output(parser, "the visualizations and detections.json", required=True)
    add_weights(parser)
    add_threshold(parser, "kept")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images of one size per batch (1)")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="bf16 and fp16 by autocast (fp32)")
    parser.add_argument("--compile", action="store_true", help="compile the model, which takes a minute or more")
    parser.add_argument("--track", action="store_true", help="give objects in videos ids that stay (the extra [track])")
    add_views(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    # An override that follows --source is parsed as one more source.
    args.overrides += [text for text in args.source if _OVERRIDE.fullmatch(text) and not Path(text).exists()]
    sources, ignored = find_sources(text for text in args.source if text not in args.overrides)
    require_separate_output(args.output, sources)
    if args.track:
        require_tracker()
    predictor = build_predictor(args)
    on_cpu = predictor.device.type == "cpu" and not isinstance(predictor.model, ExportedDetector)
    if on_cpu and args.precision == "fp32" and has_fast_bfloat16():
        print_above_bar("this processor has AMX: --precision bf16 is faster")
    if view_options(args).is_whole_image and not predictor.views.is_whole_image:
        print_above_bar(f"{predictor.views}, from the config")
    args.output.mkdir(parents=True, exist_ok=True)
    writer = DetectionWriter(predictor, args.output, args.threshold, args.track)
    skipped = 0
    try:
        for _, problem in tqdm(writer.write(sources), desc="detecting", unit="file", total=len(sources)):
            if problem is not None:
                print_above_bar(f"skipped {problem}")
                skipped += 1
    finally:
        writer.write_detections()  # also after an interrupt: the visualizations up to then exist
    if ignored:
        are = "is neither an image nor a video" if len(ignored) == 1 else "are neither images nor videos"
        print_above_bar(f"{counted(ignored, 'file')} {are}: {', '.join(ignored[:3])}")
    if args.compile:
        print(f"compiled {counted(predictor.compiled_graphs, 'graph')}")
    done = f"{len(sources) - skipped} of {counted(sources, 'source')}" if skipped else counted(sources, "source")
    objects = counted(writer.detections.number_of_objects, "object")
    print(f"{done}, {objects}: visualizations and detections.json are in {args.output}")
    return 1 if skipped else 0


def build_predictor(args: argparse.Namespace) -> Predictor:
    """Build the predictor that the arguments describe."""
    views = view_options(args)
    return Predictor(
        chosen_model(args),
        min_score=min(args.threshold, LOW_SCORE) if args.track else args.threshold,
        batch_size=args.batch_size,
        precision=args.precision,
        compile=args.compile,
        tile=views.tile,
        overlap=views.overlap,
        tta=views.tta,
    )


def print_above_bar(message: str) -> None:
    """Print a message on stderr without breaking the progress bar."""
    tqdm.write(f"{PROGRAM} predict: {message}", file=sys.stderr)
