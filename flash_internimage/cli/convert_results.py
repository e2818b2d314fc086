"""Convert detections to the format of an annotation tool or of another library.

Examples:

  pre-annotations for CVAT (upload annotations.xml to a task with the images, as "CVAT 1.1"):
    flash-internimage convert-results --format cvat output/predictions/detections.json --output cvat

  for Label Studio, whose local storage serves the images:
    flash-internimage convert-results --format label-studio --image-root "/data/local-files/?d=photos/" \\
        output/predictions/detections.json --output label-studio

  label files in YOLO format, with polygons instead of boxes; and the annotations of Pascal VOC:
    flash-internimage convert-results --format yolo --polygons output/predictions/detections.json --output yolo
    flash-internimage convert-results --format voc output/predictions/detections.json --output voc

`flash-internimage predict` writes detections.json, itself in COCO's annotation format with scores, which FiftyOne reads.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically
from flash_internimage.inference.conversion import FORMATS, read_detections, to_label_studio, to_yolo
from flash_internimage.plurals import counted

from .arguments import add_output
from .errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("detections", type=Path, metavar="FILE", help="detections.json of `flash-internimage predict`")
    parser.add_argument("--format", required=True, choices=sorted(FORMATS), help="format to write")
    add_output(parser, "the files", required=True)
    parser.add_argument("--polygons", action="store_true", help="write the outline of masks instead of boxes (not for voc)")
    parser.add_argument(
        "--scores", action="store_true", help="yolo: end each line with the score, like save_conf of Ultralytics"
    )
    parser.add_argument("--image-root", default="", metavar="TEXT", help="label-studio: text before the name of an image")
    parser.add_argument("--overwrite", action="store_true", help="replace files of these names in the output folder")


def run(args: argparse.Namespace) -> int:
    if args.polygons and args.format == "voc":
        raise UsageError("--polygons: Pascal VOC's annotations have boxes only; leave it out, or choose another format")
    if args.scores and args.format != "yolo":
        raise UsageError("--scores: only for --format yolo; the other formats hold scores, or cannot")
    if args.image_root and args.format != "label-studio":
        raise UsageError("--image-root: only for --format label-studio")
    images, names = read_detections(args.detections, args.polygons)
    if args.format == "yolo":
        files = to_yolo(images, names, args.scores, args.polygons)
    elif args.format == "label-studio":
        files = to_label_studio(images, names, args.image_root)
    else:
        files = FORMATS[args.format](images, names)
    if not args.overwrite:
        _require_absent(args.output, files)
    for path, text in files.items():
        target = args.output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, partial(Path.write_text, data=text, encoding="utf-8"))
    objects = sum(len(image.detections) for image in images)
    print(f"{args.output}: {counted(files, 'file')}, {counted(objects, 'object')} in {counted(images, 'image')}")
    return 0


def _require_absent(folder: Path, files: Iterable[str]) -> None:
    """Raise an error if a file exists: it may be an annotation that somebody has corrected."""
    existing = [path for path in files if os.path.lexists(folder / path)]
    if existing:
        others = f" (and {counted(existing[1:], 'other file')} of this output)" if existing[1:] else ""
        raise UserError(
            f"{folder / existing[0]}: exists already{others}, perhaps with corrected annotations; choose another folder for "
            "--output, or replace them with --overwrite"
        )
