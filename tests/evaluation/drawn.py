"""A saved evaluation of a small shapes dataset with all kinds of mistakes."""

import json
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog

from flash_internimage.data.shapes import annotation_file, write_split
from flash_internimage.evaluation.average_precision import average_precision
from flash_internimage.evaluation.saved import EVALUATION_FILE, PREDICTIONS_FILE, evaluation_to_json, write_json


def write_evaluation(folder: Path, annotations: Path, images: Path, predictions: list[dict], name: str) -> None:
    """Write the files of an evaluation."""
    truth = json.loads(annotations.read_text())
    metadata = MetadataCatalog.get(name).set(json_file=str(annotations), image_root=str(images))
    MetadataCatalog.remove(name)
    scores = average_precision(truth, predictions, ("bbox", "segm"))
    folder.mkdir(parents=True)
    write_json(folder / PREDICTIONS_FILE, predictions)
    write_json(folder / EVALUATION_FILE, evaluation_to_json(metadata, truth, scores))


def evaluate_drawn_shapes(root: Path) -> Path:
    """Write an evaluation in which objects are missed, misclassified or detected twice; return its output folder."""
    write_split(root / "data", "val", 8)
    annotations = annotation_file(root / "data", "val")
    random = np.random.RandomState(0)
    another = {3: 7, 7: 16, 16: 42, 42: 3}
    predictions = []
    for number, found in enumerate(json.loads(annotations.read_text())["annotations"]):
        if found["iscrowd"] or number % 3 == 0:
            continue
        for score in (0.9, 0.6)[: 1 + (number % 5 == 0)]:
            predictions.append(
                {
                    "image_id": found["image_id"],
                    "category_id": another[found["category_id"]] if number % 4 == 0 else found["category_id"],
                    "bbox": (np.array(found["bbox"]) + random.uniform(-1, 1, 4)).tolist(),
                    "segmentation": rle(found["segmentation"], found["image_id"], annotations),
                    "score": score,
                }
            )
    write_evaluation(root / "run" / "inference", annotations, root / "data" / "val", predictions, "shapes <&>")
    return root / "run"


def rle(segmentation, image_id: int, annotations: Path) -> dict:
    """Encode a segmentation of the ground truth as an RLE."""
    import pycocotools.mask as mask_util

    image = next(i for i in json.loads(annotations.read_text())["images"] if i["id"] == image_id)
    if isinstance(segmentation, list):
        mask = mask_util.merge(mask_util.frPyObjects(segmentation, image["height"], image["width"]))
        return {"size": mask["size"], "counts": mask["counts"].decode("ascii")}
    return segmentation
