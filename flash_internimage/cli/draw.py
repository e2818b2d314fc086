#!/usr/bin/env python
"""Draw the detections of an evaluation beside the ground truth, one picture an image.

    python tools/draw_detections.py --dataset shapes_val --predictions output/demo/inference/coco_instances_results.json \\
        --output output/demo/pictures
    python tools/draw_detections.py --json val.json --images val/ --predictions … --output … --limit 50 --threshold 0.3

An evaluation writes its predictions below `train.output_dir`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from PIL import Image
from tqdm import tqdm

from flash_internimage.cli.errors import reported
from flash_internimage.data import require_registered
from flash_internimage.data.custom import register_in_place
from flash_internimage.evaluation.drawing import draw_annotations, side_by_side
from flash_internimage.evaluation.saved import read_predictions
from flash_internimage.images import read_rgb


def group_by_image(predictions: list[dict], threshold: float) -> dict[object, list[dict]]:
    """Predictions in COCO's result format, by image id, those below the threshold left out."""
    groups: dict[object, list[dict]] = defaultdict(list)
    for prediction in predictions:
        if prediction["score"] >= threshold:
            groups[prediction["image_id"]].append(prediction)
    return groups


def ground_truth_and_detections(dataset_dict: dict, predictions: list[dict], metadata: Metadata, scale: float) -> np.ndarray:
    """Ground truth on the left, detections on the right, as an RGB image."""
    image = read_rgb(dataset_dict["file_name"])
    names = metadata.thing_classes
    truth = draw_annotations(image, dataset_dict["annotations"], names, scale=scale)
    class_of = metadata.thing_dataset_id_to_contiguous_id
    return side_by_side(truth, draw_annotations(image, predictions, names, class_of, scale=scale))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a registered dataset, such as shapes_val or coco_2017_val")
    parser.add_argument("--json", help="annotations of your own data, instead of --dataset")
    parser.add_argument("--images", help="the folder of its images")
    parser.add_argument("--predictions", required=True, type=Path, help="coco_instances_results.json of an evaluation")
    parser.add_argument("--output", required=True, type=Path, help="the folder for the pictures")
    parser.add_argument("--limit", type=int, default=20, help="how many images (20)")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score that is drawn (0.5)")
    parser.add_argument("--scale", type=float, default=2.0, help="magnification of the pictures (2)")
    arguments = parser.parse_args(argv)
    if (arguments.dataset is None) == (arguments.json is None) or (arguments.json is None) != (arguments.images is None):
        parser.error("give either --dataset, or --json with --images")
    return arguments


def draw(arguments: argparse.Namespace) -> int:
    """The number of pictures drawn."""
    name = arguments.dataset or "own data"
    if arguments.json:
        register_in_place(name, arguments.json, arguments.images)
    require_registered(name)
    predictions = read_predictions(arguments.predictions)
    dataset_dicts = DatasetCatalog.get(name)[: arguments.limit]
    by_image = group_by_image(predictions, arguments.threshold)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for dataset_dict in tqdm(dataset_dicts, desc="drawing", unit="image"):
        picture = ground_truth_and_detections(
            dataset_dict, by_image[dataset_dict["image_id"]], MetadataCatalog.get(name), arguments.scale
        )
        Image.fromarray(picture).save(arguments.output / f"{Path(dataset_dict['file_name']).stem}.png")
    return len(dataset_dicts)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with reported("draw_detections.py"):
        number = draw(arguments)
    print(f"{number} pictures in {arguments.output}: ground truth on the left, detections on the right")


if __name__ == "__main__":
    main()
