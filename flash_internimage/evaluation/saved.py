"""Saved evaluations: ``evaluation.json`` (dataset and metrics) and predictions, from which reports and comparisons are made."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata

from flash_internimage.data.categories import Categories
from flash_internimage.data.findings import short_repr
from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically

from .average_precision import MAX_DETECTIONS
from .schema import EVALUATION, PREDICTIONS, require
from .scores import METRICS, TASK_NAMES, Scores

PREDICTIONS_FILE = "coco_instances_results.json"
EVALUATION_FILE = "evaluation.json"
GROUND_TRUTH_FILE = "ground_truth.json"  # of a dataset without an annotation file
INFERENCE_FOLDER = "inference"
"""Default folder of both files, inside the output folder of a run."""


def evaluation_to_json(
    metadata: Metadata,
    dataset: Mapping[str, Any],
    scores: Mapping[str, Scores],
    annotation_file: str | None = None,
    max_dets_per_image: int = MAX_DETECTIONS,
    weights_sha256: str | None = None,
) -> dict[str, Any]:
    """Return the content of ``evaluation.json``.

    Args:
        metadata: metadata of the dataset: its name, annotation file and image folder.
        dataset: content of the annotation file, or the evaluated part of it.
        scores: scores by task.
        annotation_file: path of the annotations; by default that of the metadata.
        max_dets_per_image: limit of detections per category and image.
        weights_sha256: fingerprint of the evaluated weights; None if unavailable.

    Returns:
        ``dataset``, ``annotation_file``, ``image_root``, ``num_images``, ``max_dets_per_image``, ``weights_sha256``,
        ``categories`` (id, name and number of objects) and ``tasks``; for each task ``metrics`` in percent, the same
        ``by_category``, and ``precision`` as in :class:`.Scores`.
    """
    objects = Counter(a["category_id"] for a in dataset.get("annotations", []) if not a.get("iscrowd"))
    categories = Categories.from_coco(dataset["categories"])
    return {
        "dataset": metadata.name,
        "annotation_file": _absolute(annotation_file or metadata.get("json_file")),
        "image_root": _absolute(metadata.get("image_root")),
        "num_images": len({image["id"] for image in dataset["images"]}),
        "max_dets_per_image": max_dets_per_image,
        "weights_sha256": weights_sha256,
        "categories": [{"id": id_, "name": name, "objects": objects[id_]} for id_, name in categories.items()],
        "tasks": {task: _as_json(found) for task, found in scores.items()},
    }


def remove_evaluation(folder: str | os.PathLike[str]) -> None:
    """Delete the files of an earlier evaluation, so that they are not taken for those of the next one."""
    for name in (EVALUATION_FILE, PREDICTIONS_FILE, GROUND_TRUTH_FILE):
        (Path(folder) / name).unlink(missing_ok=True)


def read_evaluation(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Path]:
    """Read ``evaluation.json``; return its content and the folder with it and the predictions.

    Args:
        path: the output folder of a run, its ``inference`` folder, or the file itself.

    Raises:
        UserError: there is no such file, or it has other content.
    """
    path = Path(path)
    candidates = [path / INFERENCE_FOLDER / EVALUATION_FILE, path / EVALUATION_FILE] if path.is_dir() else [path]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        if any(candidate.with_name(PREDICTIONS_FILE).is_file() for candidate in candidates):
            raise UserError(
                f"{path}: holds detections, but no {EVALUATION_FILE}: the dataset has no annotations, or the evaluation "
                "did not finish; evaluate on data with annotations (flash-internimage eval)"
            )
        raise UserError(f"{path}: holds no {EVALUATION_FILE}; give the output folder of an evaluation (flash-internimage eval)")
    try:
        evaluation = read_json(file, "the metrics of an evaluation")
        require(evaluation, EVALUATION, file)
        _require_consistent(evaluation, file)
    except UserError as error:
        raise UserError(f"{error}; should be a file written by an evaluation: evaluate again") from error
    for task in evaluation["tasks"].values():
        task["metrics"] = {name: _number(task["metrics"][name]) for name in METRICS}
    return evaluation, file.parent


def _require_consistent(evaluation: Mapping[str, Any], file: Path) -> None:
    """Raise an error unless the parts of an evaluation, whose types are right, belong together."""
    ids = [str(category["id"]) for category in evaluation["categories"]]
    if len(set(ids)) < len(ids) or not ids:
        raise UserError(f"{file}: categories should have an id each, of their own, got {', '.join(ids[:10]) or 'none'}")
    if not evaluation["tasks"] or not set(evaluation["tasks"]) <= set(TASK_NAMES):
        raise UserError(f"{file}: tasks should be of {', '.join(TASK_NAMES)}, got {short_repr(list(evaluation['tasks']))}")
    for name, task in evaluation["tasks"].items():
        figures = [task["metrics"], *task["by_category"].values()]
        if set(task["by_category"]) != set(ids) or not all(set(METRICS) <= set(found) for found in figures):
            raise UserError(f"{file}: {name} should have {', '.join(METRICS)} for all categories and for each")
        lengths = {len(row) for plane in task["precision"] for row in plane}
        if len(lengths) > 1 or len({len(plane) for plane in task["precision"]}) > 1:
            raise UserError(f"{file}: the precision of {name} should be a table for each IoU, all of the same size")


def scores_of(task: Mapping[str, Any]) -> Scores:
    """Convert one of the ``tasks`` in ``evaluation.json`` to scores."""
    by_category = {
        int(id_): {name: _number(value) for name, value in found.items()} for id_, found in task["by_category"].items()
    }
    return Scores(dict(task["metrics"]), by_category, np.array(task["precision"], dtype=float))


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Read predictions in COCO's result format.

    Raises:
        UserError: the file does not exist, or has other content.
    """
    predictions = read_json(path, "the predictions of an evaluation")
    if not isinstance(predictions, list):
        raise UserError(
            f"{path}: should contain the predictions of an evaluation, a list, but contains a {type(predictions).__name__}"
        )
    require(predictions, PREDICTIONS, path)
    return predictions


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: path of the file.
        what: description of the expected content, for messages.

    Raises:
        UserError: the file cannot be opened, or is not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: should contain {what}, but cannot be read ({reason})") from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""

    # json.dump does not use the compiled encoder and is five times slower than json.dumps.
    text = json.dumps(content)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _absolute(path: str | None) -> str | None:
    return path if path is None or "://" in path else os.path.abspath(path)


def _as_json(scores: Scores) -> dict[str, Any]:
    precision = scores.precision.round(2).astype(object)
    precision[np.isnan(scores.precision)] = None
    return {
        "metrics": _without_nan(scores.metrics),
        "by_category": {str(id_): _without_nan(found) for id_, found in scores.by_category.items()},
        "precision": precision.tolist(),
    }


def _without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
