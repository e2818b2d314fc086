"""An evaluation as one web page that needs nothing else: ``report.html``.

It is made of the files that an evaluation leaves (:mod:`.record`, predictions) and of the dataset's annotations and images,
so that it can be made at any time after.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically

from . import report_figures as figures
from .average_precision import MAX_DETECTIONS
from .record import PREDICTIONS_FILE, read_json, read_predictions, read_record, scores_of
from .report_matching import MATCH_IOU, Boxes, Kind, Matches, confusion, match
from .report_pictures import Mistakes, count_mistakes, draw_mistakes, worst
from .scores import METRICS, TASK_NAMES, Scores

REPORT_FILE = "report.html"
_MOST_CONFUSIONS = 15
_KINDS = {
    Kind.CORRECT: "right",
    Kind.WRONG_CLASS: "wrong class, on an object nothing else found",
    Kind.DUPLICATE: "on an object that was found already",
    Kind.BADLY_PLACED: "badly placed on an object of its class",
    Kind.BACKGROUND: "on no object of its class",
    Kind.IGNORED: "in a crowd region, not counted",
}


@dataclass(frozen=True)
class Evaluated:
    """What a report is about.

    Attributes:
        names: of the classes.
        files: of the images, in the order of their numbers.
        num_objects: of each class, without crowd regions.
        max_dets_per_image: the evaluation's limit of detections per image and class.
    """

    dataset: str
    names: list[str]
    files: list[Path]
    num_objects: np.ndarray
    scores: dict[str, Scores]
    detections: Boxes
    objects: Boxes
    max_dets_per_image: int


def write_report(
    evaluation: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    config: str | None = None,
    environment: str | None = None,
    min_score: float = 0.5,
    num_pictures: int = 6,
) -> None:
    """Write the page for an evaluation.

    Args:
        evaluation: the output folder of the run, or the folder with ``evaluation.json``.
        target: the file to write.
        config: of the run, as text.
        environment: in which it ran, as text.
        min_score: detections below it do not count, but for AP and in the curves over all scores.
        num_pictures: how many images with missed objects are shown, and how many with wrong detections.

    Raises:
        UserError: the folder holds no evaluation, or its files do not fit each other or the annotations.
    """
    data = load(evaluation)
    matches = match(data.detections, data.objects, len(data.files), min_score)
    page = _template().render(
        **_figures_section(data),
        **_matches_section(data, matches, min_score),
        pictures=_pictures_section(data, matches, num_pictures),
        config=config,
        environment=environment,
    )
    write_atomically(target, lambda path: path.write_text(page, encoding="utf-8"))


def load(evaluation: str | os.PathLike[str]) -> Evaluated:
    """Read the record and the predictions of an evaluation, and the annotations that the record names.

    Raises:
        UserError: one of them is missing or broken.
    """
    record, folder = read_record(evaluation)
    if record["annotation_file"] is None:
        raise UserError(f"{folder}: the dataset {record['dataset']} has no annotation file, so there is nothing to report")
    truth = read_json(Path(record["annotation_file"]), "the annotations of the evaluated dataset")
    predictions = read_predictions(folder / PREDICTIONS_FILE)
    image_number = {image["id"]: i for i, image in enumerate(truth["images"])}
    class_number = {category["id"]: k for k, category in enumerate(record["categories"])}
    root = Path(record["image_root"] or "")
    return Evaluated(
        dataset=record["dataset"],
        names=[category["name"] for category in record["categories"]],
        files=[root / image["file_name"] for image in truth["images"]],
        num_objects=np.array([category["objects"] for category in record["categories"]]),
        scores={task: scores_of(found) for task, found in record["tasks"].items()},
        detections=Boxes.of(predictions, image_number, class_number),
        objects=Boxes.of(
            # The AP leaves out annotations of images that are not listed, too.
            [a for a in truth["annotations"] if a["image_id"] in image_number],
            image_number,
            class_number,
        ),
        max_dets_per_image=record.get("max_dets_per_image", MAX_DETECTIONS),  # records of earlier versions lack it
    )


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.jinja")


def _figures_section(data: Evaluated) -> dict[str, Any]:
    """COCO's figures: the head of the page, the table and the curves."""
    everything = [found.metrics for found in data.scores.values()]
    rows = [_ap_row("all", int(data.num_objects.sum()), everything)]
    ids = list(next(iter(data.scores.values())).by_category)
    for k, (name, id_) in enumerate(zip(data.names, ids, strict=True)):
        rows.append(_ap_row(name, int(data.num_objects[k]), [found.by_category[id_] for found in data.scores.values()]))
    return {
        "dataset": data.dataset,
        "tasks": [TASK_NAMES[task] for task in data.scores],
        "metrics": METRICS,
        "ap_rows": rows,
        "precision_recall": figures.precision_recall(data.scores, data.names),
    }


def _ap_row(name: str, objects: int, metrics: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    cells = [f"{found[metric]:.1f}" if not math.isnan(found[metric]) else "–" for found in metrics for metric in METRICS]
    return {"name": name, "objects": f"{objects:,}", "cells": cells}


def _matches_section(data: Evaluated, matches: Matches, min_score: float) -> dict[str, Any]:
    """What counts from a lowest score on."""
    single = ~data.objects.crowd
    judged = matches.kind != Kind.IGNORED
    correct = matches.kind == Kind.CORRECT
    counts = confusion(data.detections, data.objects, matches, len(data.names))
    by_kind = np.bincount(matches.kind[matches.counted], minlength=len(Kind))
    num_judged = by_kind.sum() - by_kind[Kind.IGNORED]
    recall = _share(matches.found[single].sum(), single.sum())
    tiles = [(f"{found.metrics['AP']:.1f}", f"{TASK_NAMES[task]} AP") for task, found in data.scores.items()]
    tiles += [
        (recall, f"of objects found, at score {min_score:g}"),
        (_share(by_kind[Kind.CORRECT], num_judged), "of detections right"),
    ]
    return {
        "subtitle": f"{len(data.files):,} images, {single.sum():,} objects of {len(data.names)} classes, "
        f"{len(data.detections):,} detections. AP counts up to {data.max_dets_per_image:,} detections of a class in an image.",
        "tiles": [{"value": value, "name": name} for value, name in tiles],
        "threshold": f"{min_score:g}",
        "match_iou": f"{MATCH_IOU:g}",
        "thresholds": figures.thresholds(correct[judged], data.detections.score[judged], int(single.sum()), min_score),
        "score_histogram": figures.score_histogram(correct[judged], data.detections.score[judged]),
        "iou_histogram": figures.iou_histogram(matches.best_iou[single]),
        "confusion_matrix": figures.confusion_matrix(counts, data.names),
        "confusions": _confusions(counts[:-1, :-1], data.names),
        "kinds": [
            {
                "name": name,
                "count": f"{by_kind[kind]:,}",
                "share": "" if kind == Kind.IGNORED else _share(by_kind[kind], num_judged),
            }
            for kind, name in _KINDS.items()
        ],
    }


def _confusions(counts: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs of different classes, the most frequent first."""
    counts = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-counts, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [{"object": names[i], "detected": names[j], "count": f"{counts[i, j]:,}"} for i, j in pairs if counts[i, j]]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def _pictures_section(data: Evaluated, matches: Matches, number: int) -> list[dict[str, Any]]:
    mistakes = count_mistakes(data.detections, data.objects, matches, len(data.files))
    by_missed, by_wrong = worst(mistakes, number)
    return [
        {"title": "Images with most missed objects", "figures": [_picture(data, matches, m) for m in by_missed]},
        {"title": "Other images with most wrong detections", "figures": [_picture(data, matches, m) for m in by_wrong]},
    ]


def _picture(data: Evaluated, matches: Matches, mistakes: Mistakes) -> dict[str, Any]:
    file = data.files[mistakes.image]
    objects = int((data.objects.image[~data.objects.crowd] == mistakes.image).sum())
    caption = f"{mistakes.missed} of {objects} objects missed, {mistakes.wrong} wrong detections"
    try:
        url = draw_mistakes(file, mistakes.image, data.detections, data.objects, matches, data.names)
    except (OSError, ValueError) as error:  # a report on another machine has no images, but all the rest
        url, caption = None, f"{caption}; the image cannot be shown ({error})"
    return {"url": url, "name": file.name, "caption": caption}
