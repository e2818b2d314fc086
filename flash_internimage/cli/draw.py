"""Draw the detections of an evaluation beside the ground truth, one visualization per image and one of several.

Examples:

  an evaluation on the generated shapes dataset:
    flash-internimage draw --dataset shapes_val \\
        --predictions output/inference/coco_instances_results.json --output output/visualizations

  an evaluation on your own dataset, with more detections and more images:
    flash-internimage draw --json val.json --images val --threshold 0.3 --limit 50 \\
        --predictions output/inference/coco_instances_results.json --output output/visualizations

`flash-internimage eval` writes the predictions to train.output_dir. overview.png shows the first images that have objects.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from flash_internimage.data import Categories, require_registered
from flash_internimage.data.custom import register_in_place
from flash_internimage.data.registered import require_valid_contents
from flash_internimage.data.validation import problem_of_annotation
from flash_internimage.errors import UserError
from flash_internimage.evaluation.drawing import draw_annotations, grid, side_by_side, write_png
from flash_internimage.evaluation.saved import read_predictions
from flash_internimage.images import read_rgb
from flash_internimage.plurals import counted

from .arguments import add_output, add_own_data, add_threshold, positive
from .errors import UsageError

_OVERVIEW = "overview.png"
_OVERVIEW_IMAGES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", metavar="NAME", help="a registered dataset, such as shapes_val or coco_2017_val")
    add_own_data(parser)
    parser.add_argument(
        "--predictions", required=True, type=Path, metavar="FILE", help="coco_instances_results.json of an evaluation"
    )
    add_output(parser, "the visualizations", required=True)
    add_threshold(parser, "drawn")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="number of images (20)")
    parser.add_argument("--scale", type=float, default=2.0, metavar="FACTOR", help="magnification of the images (2)")


def run(args: argparse.Namespace) -> int:
    if (args.dataset is None) == (args.json is None) or (args.json is None) != (args.images is None):
        raise UsageError("expected either --dataset, or --json and --images")
    name = args.dataset or "own data"
    if args.json:
        register_in_place(name, args.json, args.images)
    require_registered(name)
    if MetadataCatalog.get(name).get("json_file") or MetadataCatalog.get(name).get("thing_classes"):
        require_valid_contents(name)
    by_image = group_by_image(read_predictions(args.predictions), args.threshold)
    dataset_dicts = DatasetCatalog.get(name)[: args.limit]
    categories = Categories.from_metadata(MetadataCatalog.get(name))  # detectron2 sets them when it loads the dataset
    if categories is None:
        raise UserError(f"dataset {name!r}: expected thing_classes in its metadata, got none; set them where it is registered")
    args.output.mkdir(parents=True, exist_ok=True)
    overview: list[np.ndarray] = []
    for dataset_dict in tqdm(dataset_dicts, desc="drawing", unit="image"):
        predictions = by_image[dataset_dict["image_id"]]
        require_drawable(predictions, dataset_dict, categories, args.predictions)
        drawn = ground_truth_and_detections(dataset_dict, predictions, categories, args.scale)
        write_png(drawn, args.output / f"{Path(dataset_dict['file_name']).stem}.png")
        if (dataset_dict["annotations"] or predictions) and len(overview) < _OVERVIEW_IMAGES:
            overview.append(drawn)
    print(f"{counted(dataset_dicts, 'visualization')} in {args.output}: ground truth on the left, detections on the right")
    if overview:
        write_png(grid(overview), args.output / _OVERVIEW)
        print(f"{len(overview)} of them in one image: {args.output / _OVERVIEW}")
    return 0


def group_by_image(predictions: list[dict], threshold: float) -> dict[object, list[dict]]:
    """Group predictions in COCO's result format by image id, without those that score below ``threshold``."""
    groups: dict[object, list[dict]] = defaultdict(list)
    for prediction in predictions:
        if prediction["score"] >= threshold:
            groups[prediction["image_id"]].append(prediction)
    return groups


def require_drawable(predictions: list[dict], dataset_dict: dict, categories: Categories, source: Path) -> None:
    """Raise an exception if a prediction has a category that the dataset lacks, or a box or mask that does not fit its image.

    Raises:
        UserError: a prediction does not match the dataset; the message names it.
    """
    for prediction in predictions:
        if prediction["category_id"] not in categories:
            raise UserError(
                f"{source}: a prediction of image {prediction['image_id']!r} has category {prediction['category_id']}, which "
                "the dataset does not have; give the predictions of the same dataset"
            )
        problem = problem_of_annotation(prediction, dataset_dict["height"], dataset_dict["width"])
        if problem is not None:
            raise UserError(f"{source}: a prediction of image {prediction['image_id']!r} cannot be drawn: {problem}")


def ground_truth_and_detections(
    dataset_dict: dict, predictions: list[dict], categories: Categories, scale: float
) -> np.ndarray:
    """Draw an image twice: with its ground truth on the left, with its detections on the right; RGB."""
    image = read_rgb(dataset_dict["file_name"])
    truth = draw_annotations(image, dataset_dict["annotations"], categories.names, scale=scale)
    return side_by_side(truth, draw_annotations(image, predictions, categories.names, categories.class_of, scale=scale))
