"""COCO's average precision, computed by hotcoco, which is bit-exact with pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import hotcoco
import numpy as np

from flash_internimage.data.run_lengths import require_valid_masks
from flash_internimage.errors import UserError

from .scores import METRICS, Scores

MAX_DETECTIONS = 100
"""COCO's limit of detections per category and image; detections with lower scores are ignored."""


def average_precision(
    dataset: Mapping, predictions: Sequence[Mapping], tasks: Sequence[str], max_detections: int = MAX_DETECTIONS
) -> dict[str, Scores]:
    """Compute COCO's average precision for each task.

    The arguments are not modified. Annotations may lack ``iscrowd`` (default 0) and ``area`` (default: area of the box); those
    of images or categories that are not listed are ignored.

    Args:
        dataset: content of an annotation file; with masks for ``"segm"``.
        predictions: predictions in COCO's result format, with the category ids of the annotation file; may be empty.
        tasks: ``"bbox"``, ``"segm"``, or both.
        max_detections: limit of detections per category and image.

    Raises:
        UserError: a prediction refers to an image or category that the dataset does not have, lacks a mask although ``"segm"``
            is evaluated, or has a score that is NaN; or the RLE mask of an annotation is invalid.
    """
    # Ids may have any sortable type, but hotcoco's are positive integers. Ties between scores are broken by image id.
    image_number = _numbers(dataset["images"])
    category_number = _numbers(dataset["categories"])
    if "segm" in tasks:
        _require_valid_masks(dataset)
    ground_truth = _ground_truth(dataset, image_number, category_number)
    columns = _columns(predictions, image_number, category_number)
    masks = _masks(predictions) if "segm" in tasks else None
    detections = ground_truth.load_res(columns, segmentation=masks)
    scores = {}
    for task in sorted(tasks):  # boxes first, because detections are loaded with the areas of their boxes
        if task == "segm" and masks:
            areas = hotcoco.mask.area(masks).astype(float)
            detections.update_anns(ids=np.arange(1, len(masks) + 1), area=areas)
        evaluation = hotcoco.COCOeval(ground_truth, detections, task)
        evaluation.params.max_dets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        results: Any = evaluation.eval
        scores[task] = _scores(results["precision"][..., 0], list(category_number))
    return {task: scores[task] for task in tasks}


def _require_valid_masks(dataset: Mapping) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    known = [a for a in dataset.get("annotations", []) if a["image_id"] in sizes]
    require_valid_masks(
        (a.get("segmentation") for a in known),
        (sizes[a["image_id"]] for a in known),
        lambda i: f"annotation {known[i].get('id')!r} of image {known[i]['image_id']!r}",
    )


def _numbers(entries: Sequence[Mapping]) -> dict:
    """Map each id to a consecutive number from 1, in the order of ids."""
    return {id_: number for number, id_ in enumerate(sorted({entry["id"] for entry in entries}), start=1)}


def _ground_truth(dataset: Mapping, image_number: Mapping, category_number: Mapping) -> hotcoco.COCO:
    """Convert the parts of the dataset that evaluation needs to hotcoco, with consecutive numbers as ids."""
    annotations: list[dict[str, Any]] = []
    for a in dataset.get("annotations", []):
        if a["image_id"] in image_number and a["category_id"] in category_number:
            found = {
                "id": len(annotations) + 1,
                "image_id": image_number[a["image_id"]],
                "category_id": category_number[a["category_id"]],
                "bbox": a["bbox"],
                "area": a["area"] if "area" in a else a["bbox"][2] * a["bbox"][3],
                "iscrowd": int(bool(a.get("iscrowd"))),
            }
            if a.get("segmentation"):
                found["segmentation"] = a["segmentation"]
            annotations.append(found)
    images = [{"id": image_number[i["id"]], "height": i["height"], "width": i["width"]} for i in dataset["images"]]
    categories = [{"id": number, "name": str(number)} for number in category_number.values()]
    return hotcoco.COCO({"images": images, "annotations": annotations, "categories": categories})


def _columns(predictions: Sequence[Mapping], image_number: Mapping, category_number: Mapping) -> np.ndarray:
    """Convert predictions to (N, 7): image number, box (XYWH), score, category number; hotcoco loads this faster than dicts."""
    columns = np.empty((len(predictions), 7))
    try:
        columns[:, 0] = [image_number[p["image_id"]] for p in predictions]
        columns[:, 6] = [category_number[p["category_id"]] for p in predictions]
    except KeyError as error:
        raise UserError(
            f"predictions are of image or category {error}, which the annotations do not have; use those of the same dataset"
        ) from error
    columns[:, 1:5] = np.reshape([p["bbox"] for p in predictions], (-1, 4))
    columns[:, 5] = [p["score"] for p in predictions]
    bad = np.flatnonzero(np.isnan(columns[:, 5]))
    if len(bad):
        raise UserError(
            f"the score of a prediction of image {predictions[bad[0]]['image_id']} should be a number, but is NaN, as are "
            f"{len(bad)} of {len(predictions)}; the model's weights or its input are broken"
        )
    return columns


def _masks(predictions: Sequence[Mapping]) -> list[Any]:
    try:
        return [p["segmentation"] for p in predictions]
    except KeyError as error:
        raise UserError("predictions have no masks, so mask AP cannot be computed; evaluate only boxes") from error


def _scores(precision: np.ndarray, categories: Sequence) -> Scores:
    """Compute the metrics from precision values.

    Args:
        precision: (10, 101, K, 4) precision at IoU 0.5, 0.55, …, 0.95, recall 0, 0.01, …, 1, for each category, and for
            objects of all sizes, small, medium and large; -1 without ground truth.
        categories: ids of the K categories.
    """
    parts = {
        "AP": precision[..., 0],
        "AP50": precision[:1, ..., 0],
        "AP75": precision[5:6, ..., 0],
        **{name: precision[..., size] for size, name in enumerate(METRICS[3:], start=1)},
    }
    metrics = {name: _mean_percent(part) for name, part in parts.items()}
    by_category = {id_: {name: _mean_percent(part[..., k]) for name, part in parts.items()} for k, id_ in enumerate(categories)}
    return Scores(metrics, by_category, np.where(parts["AP"] > -1, parts["AP"] * 100, np.nan))


def _mean_percent(precision: np.ndarray) -> float:
    """Return the mean in percent over the values with ground truth; NaN if there are none."""
    valid = precision[precision > -1]
    return float(np.mean(valid)) * 100 if valid.size else float("nan")
