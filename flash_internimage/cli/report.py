#!/usr/bin/env python
"""Make the report of an evaluation after the fact: one web page that needs nothing else.

    python tools/report.py output
    python tools/report.py output/inference --output report.html --threshold 0.3

An evaluation (train_net.py --eval-only) writes one by itself unless train.report=false.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from flash_internimage.cli.errors import reported
from flash_internimage.evaluation.report import REPORT_FILE, write_report
from flash_internimage.evaluation.saved import read_evaluation


def saved_config(folder: Path) -> str | None:
    """The config that a run left in the folder of its evaluation, or in that above."""
    files = [folder / "config.yaml", folder.parent / "config.yaml"]
    return next((file.read_text() for file in files if file.is_file()), None)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path, help="the output folder of an evaluation")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in that folder)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="lowest score that counts (0.5)")
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help="images shown of each kind of mistake (6)")
    arguments = parser.parse_args(argv)
    with reported("report.py"):
        _, folder = read_evaluation(arguments.evaluation)
        target = arguments.output or (arguments.evaluation if arguments.evaluation.is_dir() else folder) / REPORT_FILE
        write_report(
            arguments.evaluation,
            target,
            config=saved_config(folder),
            min_score=arguments.threshold,
            num_images=arguments.pictures,
        )
    print(target)


if __name__ == "__main__":
    main()
