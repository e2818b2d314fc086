"""Report of an evaluation as a single self-contained web page, ``report.html``.

It is generated from the files of a saved evaluation (:mod:`.saved`) and the annotations and images of the dataset, so that it
can be made at any time after the evaluation.
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

from flash_internimage.data.categories import Categories
from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically
from flash_internimage.images import require_inside
from flash_internimage.plurals import counted

from . import report_figures as figures
from .average_precision import MAX_DETECTIONS
from .frequency import frequency_groups, mean_over_classes
from .report_images import Mistakes, count_mistakes, draw_mistakes, worst
from .report_matching import MATCH_IOU, NEAR_IOU, Boxes, Kind, Matches, confusion, match
from .saved import PREDICTIONS_FILE, read_evaluation, read_json, read_predictions, scores_of
from .schema import GROUND_TRUTH, require
from .scores import METRICS, TASK_NAMES, Scores
from .training_curves import read_training_curves

REPORT_FILE = "report.html"
_MAX_CONFUSIONS = 15
_KINDS = {
    Kind.CORRECT: "correct",
    Kind.WRONG_CLASS: "wrong class: on an object of another class that has no correct detection",
    Kind.DUPLICATE: "duplicate: on an object that a better detection is matched to",
    Kind.POOR_LOCALIZATION: f"poor localization: IoU {NEAR_IOU:g} to {MATCH_IOU:g} with an object of its class",
    Kind.BACKGROUND: "background: on no object of its class",
    Kind.IGNORED: "ignored: in a crowd region",
}


@dataclass(frozen=True)
class Evaluation:
    """Contents of a saved evaluation and of its dataset.

    Attributes:
        dataset: name of the dataset.
        names: class names.
        files: image files; their order defines the image numbers.
        num_objects: number of objects of each class, without crowd regions.
        scores: scores by task.
        detections: detections of all images.
        objects: ground truth of all images.
        max_dets_per_image: limit of detections per class and image in the computation of AP.
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
    metrics: Path | None = None,
    min_score: float = 0.5,
    num_images: int = 6,
) -> None:
    """Write the report of an evaluation.

    Args:
        evaluation: the output folder of the run, or the folder with ``evaluation.json``.
        target: the file to write.
        config: config of the run, as text; None if unavailable.
        environment: versions and hardware of the run, as text; None if unavailable.
        metrics: ``metrics.json`` of the training, for its curves; None if unavailable.
        min_score: score threshold of the detections, except for AP and the curves over all scores.
        num_images: number of images to show with missed objects, and with incorrect detections.

    Raises:
        UserError: the folder contains no evaluation, or its files do not match each other or the annotations.
    """
    data = load(evaluation)
    matches = match(data.detections, data.objects, len(data.files), min_score)
    curves = read_training_curves(metrics) if metrics is not None else None
    page = _template().render(
        **_metrics_section(data),
        **_matches_section(data, matches, min_score),
        training_curves=figures.training_curves(curves) if curves else None,
        image_sections=_image_sections(data, matches, num_images),
        config=config,
        environment=environment,
    )
    write_atomically(target, lambda path: path.write_text(page, encoding="utf-8"))


def load(evaluation: str | os.PathLike[str]) -> Evaluation:
    """Load a saved evaluation, its predictions and the annotations of its dataset.

    Raises:
        UserError: one of the files is missing or invalid.
    """
    saved, folder = read_evaluation(evaluation)
    if saved["annotation_file"] is None:
        raise UserError(f"{folder}: the dataset {saved['dataset']} has no annotation file, so there is nothing to report")
    truth = read_json(Path(saved["annotation_file"]), "the annotations of the evaluated dataset")
    require(truth, GROUND_TRUTH, saved["annotation_file"])
    predictions = read_predictions(folder / PREDICTIONS_FILE)
    image_number = {image["id"]: i for i, image in enumerate(truth["images"])}
    categories = Categories.from_coco(saved["categories"])
    root = Path(saved["image_root"] or "")
    if saved["image_root"]:  # without, the annotations have absolute paths: the dataset was registered in code
        for image in truth["images"]:
            require_inside(image["file_name"], saved["annotation_file"])
    for task, found in saved["tasks"].items():
        shape = np.shape(found["precision"])
        if shape != (10, 101, len(categories)):
            raise UserError(f"{folder}: the precision of {task} should have shape {(10, 101, len(categories))}, got {shape}")
    return Evaluation(
        dataset=saved["dataset"],
        names=categories.names,
        files=[root / image["file_name"] for image in truth["images"]],
        num_objects=np.array([category["objects"] for category in saved["categories"]]),
        scores={task: scores_of(found) for task, found in saved["tasks"].items()},
        detections=Boxes.from_coco(predictions, image_number, categories.class_of),
        # AP ignores the annotations of images that are not listed, too.
        objects=Boxes.from_coco(
            [a for a in truth["annotations"] if a["image_id"] in image_number], image_number, categories.class_of
        ),
        max_dets_per_image=saved.get("max_dets_per_image", MAX_DETECTIONS),  # evaluations of earlier versions lack it
    )


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.jinja")


def _metrics_section(data: Evaluation) -> dict[str, Any]:
    """Return the template variables for COCO's metrics: heading, table and precision-recall curves."""
    everything = [found.metrics for found in data.scores.values()]
    rows = [_ap_row("all", int(data.num_objects.sum()), everything)]
    ids = list(next(iter(data.scores.values())).by_category)
    groups = frequency_groups(data.num_objects)
    for group, classes in groups.items():
        of_classes = [[found.by_category[ids[k]] for k in classes] for found in data.scores.values()]
        name = counted(classes, f"{group} class", f"{group} classes")
        rows.append(
            _ap_row(name, int(data.num_objects[classes].sum()), [mean_over_classes(found, METRICS) for found in of_classes])
        )
    num_groups = len(rows)
    for k, (name, id_) in enumerate(zip(data.names, ids, strict=True)):
        rows.append(_ap_row(name, int(data.num_objects[k]), [found.by_category[id_] for found in data.scores.values()]))
    return {
        "dataset": data.dataset,
        "tasks": [TASK_NAMES[task] for task in data.scores],
        "metrics": METRICS,
        "ap_rows": rows,
        "num_group_rows": num_groups,  # the first rows: all classes, and thirds of them
        "precision_recall": figures.precision_recall(data.scores, data.names),
    }


def _ap_row(name: str, objects: int, metrics: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    cells = [f"{found[metric]:.1f}" if not math.isnan(found[metric]) else "–" for found in metrics for metric in METRICS]
    return {"name": name, "objects": f"{objects:,}", "cells": cells}


def _matches_section(data: Evaluation, matches: Matches, min_score: float) -> dict[str, Any]:
    """Return the template variables for the detections above the score threshold."""
    single = ~data.objects.crowd
    judged = matches.kind != Kind.IGNORED
    correct = matches.kind == Kind.CORRECT
    counts = confusion(data.detections, data.objects, matches, len(data.names))
    by_kind = np.bincount(matches.kind[matches.above_threshold], minlength=len(Kind))
    num_judged = by_kind.sum() - by_kind[Kind.IGNORED]
    recall = _percent(matches.detected[single].sum(), single.sum())
    tiles = [(f"{found.metrics['AP']:.1f}", f"{TASK_NAMES[task]} AP") for task, found in data.scores.items()]
    tiles += [
        (recall, f"recall at score {min_score:g}"),
        (_percent(by_kind[Kind.CORRECT], num_judged), f"precision at score {min_score:g}"),
    ]
    return {
        "subtitle": f"{counted(data.files, 'image')}, {counted(int(single.sum()), 'object')} of "
        f"{counted(data.names, 'class', 'classes')}, {counted(data.detections, 'detection')}. "
        f"AP uses up to {data.max_dets_per_image:,} detections per class and image.",
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
                "share": "" if kind == Kind.IGNORED else _percent(by_kind[kind], num_judged),
            }
            for kind, name in _KINDS.items()
        ],
    }


def _confusions(counts: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the most frequent confusions between two classes."""
    counts = counts * (1 - np.eye(len(counts), dtype=np.int64))
    order = np.argsort(-counts, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [{"object": names[i], "detected": names[j], "count": f"{counts[i, j]:,}"} for i, j in pairs if counts[i, j]]


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.0f} %" if total else "–"


def _image_sections(data: Evaluation, matches: Matches, number: int) -> list[dict[str, Any]]:
    mistakes = count_mistakes(data.detections, data.objects, matches, len(data.files))
    by_missed, by_incorrect = worst(mistakes, number)
    return [
        {"title": "Images with the most missed objects", "figures": [_figure(data, matches, m) for m in by_missed]},
        {
            "title": "Other images with the most incorrect detections",
            "figures": [_figure(data, matches, m) for m in by_incorrect],
        },
    ]


def _figure(data: Evaluation, matches: Matches, mistakes: Mistakes) -> dict[str, Any]:
    file = data.files[mistakes.image]
    objects = int((data.objects.image[~data.objects.crowd] == mistakes.image).sum())
    caption = f"{mistakes.missed} of {counted(objects, 'object')} missed, {counted(mistakes.incorrect, 'incorrect detection')}"
    try:
        url = draw_mistakes(file, mistakes.image, data.detections, data.objects, matches, data.names)
    except (OSError, ValueError) as error:  # the images may be missing, for example on another machine
        url, caption = None, f"{caption}; the image cannot be shown ({error})"
    return {"url": url, "name": file.name, "caption": caption}
