"""Print the metrics of two evaluations side by side: overall, by object size and by class.

Examples:

  two evaluations:
    flash-internimage compare output/before output/after

  only the ten classes whose AP50 differs most:
    flash-internimage compare output/before output/after --metric AP50 --classes 10

FOLDER_A and FOLDER_B are output folders of `flash-internimage eval`, or their evaluation.json.
"""

from __future__ import annotations

import argparse
import filecmp
import math
import sys
from typing import Any

from tabulate import tabulate

from flash_internimage.errors import UserError
from flash_internimage.evaluation.saved import read_evaluation, scores_of
from flash_internimage.evaluation.scores import METRICS, TASK_NAMES, Scores

from . import PROGRAM
from .arguments import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="FOLDER_A", help="output folder of an evaluation")
    parser.add_argument("b", metavar="FOLDER_B", help="output folder of another evaluation")
    parser.add_argument("--metric", choices=METRICS, default="AP", help="metric of the table of classes (AP)")
    parser.add_argument("--classes", type=positive, metavar="N", help="only the N classes that differ most (default: all)")


def run(args: argparse.Namespace) -> int:
    (a, _), (b, _) = read_evaluation(args.a), read_evaluation(args.b)
    tasks = [task for task in a["tasks"] if task in b["tasks"]]
    if not tasks:
        raise UserError(f"nothing to compare: A has figures of {', '.join(a['tasks'])}, B of {', '.join(b['tasks'])}")
    print(f"A: {args.a}\nB: {args.b}")
    for note in notes(a, b):
        print(f"{PROGRAM} compare: warning: {note}", file=sys.stderr)
    layout: dict[str, Any] = {"tablefmt": "simple", "colalign": ("left", "right", "right", "right"), "disable_numparse": True}
    for task in tasks:
        in_a, in_b = scores_of(a["tasks"][task]), scores_of(b["tasks"][task])
        name = TASK_NAMES[task]
        print("\n" + tabulate(overview(in_a, in_b), headers=[name, "A", "B", "B - A"], **layout))
        rows = by_class(by_name(a, in_a, args.metric), by_name(b, in_b, args.metric), args.classes)
        if rows:
            print("\n" + tabulate(rows, headers=[f"{name} {args.metric}", "A", "B", "B - A"], **layout))
    return 0


def overview(a: Scores, b: Scores) -> list[list[str]]:
    """Return a row for each of COCO's metrics: A, B, B - A."""
    pairs = [(a.metrics[name], b.metrics[name]) for name in METRICS]
    return [[name, figure(x), figure(y), difference(x, y)] for name, (x, y) in zip(METRICS, pairs, strict=True)]


def by_class(a: dict[str, float], b: dict[str, float], number: int | None) -> list[list[str]]:
    """Return a row for each class that both have: the largest difference first, classes without objects last.

    Args:
        number: limit to the number of rows; None for all.
    """

    def size_of_difference(name: str) -> float:
        change = abs(b[name] - a[name])
        return -1.0 if math.isnan(change) else change

    common = sorted((name for name in a if name in b), key=size_of_difference, reverse=True)[:number]
    return [[name, figure(a[name]), figure(b[name]), difference(a[name], b[name])] for name in common]


def by_name(record: dict[str, Any], scores: Scores, metric: str) -> dict[str, float]:
    """Return one metric of each class."""
    return {category["name"]: scores.by_category[category["id"]][metric] for category in record["categories"]}


def notes(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return warnings about differences between the evaluations that make their metrics hard to compare."""
    found = []
    for key, what in (("annotation_file", "annotations"), ("num_images", "number of images")):
        if a[key] != b[key] and not (key == "annotation_file" and same_content(a[key], b[key])):
            found.append(f"the {what} differ: {a[key]} and {b[key]}")
    names = [{category["name"] for category in record["categories"]} for record in (a, b)]
    if names[0] != names[1]:
        found.append(f"the classes differ: {', '.join(sorted(names[0] ^ names[1]))} in one of them only")
    return found


def same_content(a: str | None, b: str | None) -> bool:
    """Return whether two files have the same content: each run converts a dataset of another format to a file of its own."""
    try:
        return a is not None and b is not None and filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def figure(value: float) -> str:
    """Format a metric; a dash if it is unknown."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def difference(a: float, b: float) -> str:
    """Format ``b - a`` with its sign; empty if one of them is unknown."""
    return "" if math.isnan(a) or math.isnan(b) else f"{b - a:+.2f}"
