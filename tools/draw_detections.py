#!/usr/bin/env python
"""Draw the detections of an evaluation beside the ground truth, one picture an image.

    python tools/draw_detections.py --dataset shapes_val --predictions output/demo/inference/coco_instances_results.json \\
        --output output/demo/pictures
    python tools/draw_detections.py --json val.json --images val/ --predictions … --output … --limit 50 --threshold 0.3

An evaluation writes its predictions below `train.output_dir`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import Visualizer
from PIL import Image
from tqdm import tqdm

import flash_internimage.data  # noqa: F401  registers "shapes"


def group_by_image(predictions: list[dict], threshold: float) -> dict[object, list[dict]]:
    """Predictions in COCO's result format, by image id, those below the threshold left out."""
    groups: dict[object, list[dict]] = defaultdict(list)
    for prediction in predictions:
        if prediction["score"] >= threshold:
            groups[prediction["image_id"]].append(prediction)
    return groups


def to_instances(predictions: list[dict], image_size: tuple[int, int], metadata: Metadata) -> Instances:
    """Predictions of one image as detectron2's Instances; boxes in absolute XYXY pixels."""
    class_of = metadata.get("thing_dataset_id_to_contiguous_id")
    instances = Instances(image_size)
    boxes = [BoxMode.convert(p["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for p in predictions]
    instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
    instances.scores = torch.tensor([p["score"] for p in predictions])
    instances.pred_classes = torch.tensor([class_of[p["category_id"]] for p in predictions], dtype=torch.long)
    if predictions and "segmentation" in predictions[0]:
        instances.pred_masks = [p["segmentation"] for p in predictions]
    return instances


def side_by_side(record: dict, predictions: list[dict], metadata: Metadata, scale: float) -> np.ndarray:
    """Ground truth on the left, detections on the right, as an RGB image (height, 2 x width, 3)."""
    image = utils.read_image(record["file_name"], "RGB")
    truth = Visualizer(image, metadata, scale).draw_dataset_dict(record)
    instances = to_instances(predictions, image.shape[:2], metadata)
    detected = Visualizer(image, metadata, scale).draw_instance_predictions(instances)
    return np.concatenate([truth.get_image(), detected.get_image()], axis=1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a registered dataset, such as shapes_val or coco_2017_val")
    parser.add_argument("--json", help="annotations of your own data, instead of --dataset")
    parser.add_argument("--images", help="the folder of its images")
    parser.add_argument("--predictions", required=True, help="coco_instances_results.json of an evaluation")
    parser.add_argument("--output", required=True, type=Path, help="the folder for the pictures")
    parser.add_argument("--limit", type=int, default=20, help="how many images (20)")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score that is drawn (0.5)")
    parser.add_argument("--scale", type=float, default=2.0, help="magnification of the pictures (2)")
    arguments = parser.parse_args()
    if (arguments.dataset is None) == (arguments.json is None) or (arguments.json is None) != (arguments.images is None):
        parser.error("give either --dataset, or --json with --images")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    name = arguments.dataset or "own data"
    if arguments.json:
        register_coco_instances(name, {}, arguments.json, arguments.images)
    if name not in DatasetCatalog.list():
        sys.exit(f"draw_detections: no dataset named {name!r}; known: {', '.join(sorted(DatasetCatalog.list()))}")
    try:
        predictions = json.loads(Path(arguments.predictions).read_text())
    except (OSError, json.JSONDecodeError) as error:
        sys.exit(f"draw_detections: {arguments.predictions}: expected the predictions of an evaluation ({error})")
    records = DatasetCatalog.get(name)[: arguments.limit]
    by_image = group_by_image(predictions, arguments.threshold)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for record in tqdm(records, desc="drawing", unit="image"):
        picture = side_by_side(record, by_image[record["image_id"]], MetadataCatalog.get(name), arguments.scale)
        Image.fromarray(picture).save(arguments.output / f"{Path(record['file_name']).stem}.png")
    print(f"{len(records)} pictures in {arguments.output}: ground truth on the left, detections on the right")


if __name__ == "__main__":
    main()
