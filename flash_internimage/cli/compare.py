#!/usr/bin/env python
"""Put the figures of two evaluations side by side: all, by size and by class.

    python tools/compare.py output/before output/after
    python tools/compare.py output/before output/after --metric AP50 --classes 10

A and B are output folders of evaluations (train_net.py --eval-only), or their evaluation.json.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from flash_internimage.cli.errors import reported
from flash_internimage.errors import UserError
from flash_internimage.evaluation.saved import read_evaluation, scores_of
from flash_internimage.evaluation.scores import METRICS, TASK_NAMES, Scores


def difference(a: float, b: float) -> str:
    """``b - a`` with its sign; nothing where one of them is not known."""
    return "" if math.isnan(a) or math.isnan(b) else f"{b - a:+.2f}"


def figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def overview(a: Scores, b: Scores) -> list[list[str]]:
    """A row for each of COCO's figures: A, B, B - A."""
    pairs = [(a.metrics[name], b.metrics[name]) for name in METRICS]
    return [[name, figure(x), figure(y), difference(x, y)] for name, (x, y) in zip(METRICS, pairs, strict=True)]


def by_class(a: dict[str, float], b: dict[str, float], number: int | None) -> list[list[str]]:
    """A row for each class that both have, the largest difference first; those without objects last.

    Args:
        number: of rows; None: all.
    """

    def size_of_difference(name: str) -> float:
        change = abs(b[name] - a[name])
        return -1.0 if math.isnan(change) else change

    common = sorted((name for name in a if name in b), key=size_of_difference, reverse=True)[:number]
    return [[name, figure(a[name]), figure(b[name]), difference(a[name], b[name])] for name in common]


def by_name(evaluation: dict[str, Any], scores: Scores, metric: str) -> dict[str, float]:
    """One figure of each class."""
    return {category["name"]: scores.by_category[category["id"]][metric] for category in evaluation["categories"]}


def notes(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What to know before the figures are compared."""
    found = []
    for key, what in (("annotation_file", "annotations"), ("num_images", "number of images")):
        if a[key] != b[key]:
            found.append(f"the {what} differ: {a[key]} and {b[key]}")
    names = [{category["name"] for category in evaluation["categories"]} for evaluation in (a, b)]
    if names[0] != names[1]:
        found.append(f"the classes differ: {', '.join(sorted(names[0] ^ names[1]))} in one of them only")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", metavar="A", help="the output folder of an evaluation")
    parser.add_argument("b", metavar="B", help="that of another")
    parser.add_argument("--metric", choices=METRICS, default="AP", help="of the classes (AP)")
    parser.add_argument("--classes", type=int, metavar="N", help="only the N classes that differ most (all)")
    arguments = parser.parse_args(argv)
    with reported("compare.py"):
        (a, _), (b, _) = read_evaluation(arguments.a), read_evaluation(arguments.b)
        tasks = [task for task in a["tasks"] if task in b["tasks"]]
        if not tasks:
            raise UserError(f"nothing to compare: A has figures of {', '.join(a['tasks'])}, B of {', '.join(b['tasks'])}")
    print(f"A: {arguments.a}\nB: {arguments.b}")
    for note in notes(a, b):
        print(f"compare.py: warning: {note}", file=sys.stderr)
    layout: dict[str, Any] = {"tablefmt": "simple", "colalign": ("left", "right", "right", "right"), "disable_numparse": True}
    for task in tasks:
        in_a, in_b = scores_of(a["tasks"][task]), scores_of(b["tasks"][task])
        name = TASK_NAMES[task]
        print("\n" + tabulate(overview(in_a, in_b), headers=[name, "A", "B", "B - A"], **layout))
        rows = by_class(by_name(a, in_a, arguments.metric), by_name(b, in_b, arguments.metric), arguments.classes)
        if rows:
            print("\n" + tabulate(rows, headers=[f"{name} {arguments.metric}", "A", "B", "B - A"], **layout))


if __name__ == "__main__":
    main()
