"""Write the report of an evaluation: one web page, which needs no other file.

Examples:

  the report of an evaluation:
    flash-internimage report output

  with the losses and AP of the training:
    flash-internimage report output/evaluation --run output

  with more detections and more images, into another folder:
    flash-internimage report output --threshold 0.3 --limit 12 --output reports

`flash-internimage eval` writes the same page unless train.report=false.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flash_internimage.errors import UserError
from flash_internimage.evaluation.report import REPORT_FILE, write_report
from flash_internimage.evaluation.saved import read_evaluation
from flash_internimage.evaluation.training_curves import METRICS_FILE, find_metrics

from .arguments import add_output, add_threshold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of an evaluation")
    add_output(parser, f"{REPORT_FILE} (default: FOLDER)")
    add_threshold(parser, "shown")
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        help="output folder of the training, whose curves are shown (default: FOLDER, if it is one)",
    )
    parser.add_argument("--limit", type=int, default=6, metavar="N", help="number of images for each kind of mistake (6)")


def run(args: argparse.Namespace) -> int:
    _, folder = read_evaluation(args.folder)
    target = (args.output or (args.folder if args.folder.is_dir() else folder)) / REPORT_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    write_report(
        args.folder,
        target,
        config=saved_config(folder),
        metrics=chosen_metrics(args.run, folder),
        min_score=args.threshold,
        num_images=args.limit,
    )
    print(target)
    return 0


def chosen_metrics(run: Path | None, folder: Path) -> Path | None:
    """Return the metrics of the run that ``--run`` names, or of the evaluation's folder or the folder above it.

    Raises:
        UserError: the run has no metrics.
    """
    found = find_metrics([folder, folder.parent] if run is None else [run])
    if run is not None and found is None:
        raise UserError(f"--run {run}: expected the output folder of a training, but it has no {METRICS_FILE}")
    return found


def saved_config(folder: Path) -> str | None:
    """Return the text of the config that a run saved in the folder of its evaluation, or in the folder above it."""
    files = [folder / "config.yaml", folder.parent / "config.yaml"]
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)
