"""Finds the unreadable images of a dataset in COCO format, and draws its annotated objects."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from flash_internimage.data import Categories
from flash_internimage.data.check import DatasetReport
from flash_internimage.data.mapper import read_image
from flash_internimage.data.validation import is_usable, usable_images
from flash_internimage.evaluation.drawing import draw_annotations, grid

_MOST_WORKERS = 4


def image_dataset_dicts(content: dict, report: DatasetReport) -> list[dict]:
    """Return the usable images of an annotation file as dataset dicts, with annotations as COCO has them.

    Images whose file is missing are left out: the report names them.

    Args:
        content: what the annotation file contains.
        report: what :func:`~flash_internimage.data.check.check_dataset` found in it.
    """
    images = usable_images(content)
    annotations = defaultdict(list)
    entries = content.get("annotations")
    for annotation in entries if isinstance(entries, list) else []:
        if not isinstance(annotation, dict) or not {"image_id", "category_id"} <= annotation.keys():
            continue
        image_id, category = annotation["image_id"], annotation["category_id"]
        if isinstance(image_id, int | str) and type(category) is int and category in report.categories:
            annotations[image_id].append(annotation)
    dataset_dicts = []
    for id_, image in images.items():
        file_name = os.path.join(report.image_root, image["file_name"])
        dataset_dict = {"image_id": id_, "height": image["height"], "width": image["width"]}
        dataset_dict.update(file_name=file_name, annotation_file=report.annotation_file, annotations=annotations[id_])
        if os.path.isfile(file_name):
            dataset_dicts.append(dataset_dict)
    return dataset_dicts


def unreadable_images(dataset_dicts: Sequence[dict]) -> dict[str, str]:
    """Return what is wrong with each image that cannot be read, by file name."""
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # decoding releases the GIL
        problems = list(tqdm(pool.map(problem_of_image, dataset_dicts), total=len(dataset_dicts), desc="reading", unit="image"))
    return {
        dataset_dict["file_name"]: problem
        for dataset_dict, problem in zip(dataset_dicts, problems, strict=True)
        if problem is not None
    }


def problem_of_image(dataset_dict: dict) -> str | None:
    """Decode an image, and return why training cannot use it, or None if it can."""
    try:
        read_image(dataset_dict)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def draw_examples(dataset_dicts: Sequence[dict], categories: Categories, limit: int) -> np.ndarray:
    """Draw up to ``limit`` images with their annotations, in a grid: an (H, W, 3) ``uint8`` array in RGB.

    Args:
        dataset_dicts: as :func:`image_dataset_dicts` returns them, readable images only.
        categories: name of each category id, in the order of the model's classes.
    """
    chosen = tqdm(choose(dataset_dicts, limit), desc="drawing", unit="image")
    return grid([tile(dataset_dict, categories) for dataset_dict in chosen])


def choose(dataset_dicts: Sequence[dict], limit: int) -> list[dict]:
    """Choose images at random, such that as many categories as possible appear, the rarest first."""
    shuffled = random.Random(0).sample(dataset_dicts, len(dataset_dicts))
    holding: dict[int, list[int]] = defaultdict(list)
    for number, dataset_dict in enumerate(shuffled):
        for category in {annotation["category_id"] for annotation in dataset_dict["annotations"]}:
            holding[category].append(number)
    chosen: dict[int, None] = {}  # an ordered set
    for numbers in sorted(holding.values(), key=len):
        if not chosen.keys() & set(numbers):
            chosen[numbers[0]] = None
    chosen.update(dict.fromkeys(range(len(shuffled))))
    return [shuffled[number] for number in list(chosen)[:limit]]


def tile(dataset_dict: dict, categories: Categories, side: int = 320) -> np.ndarray:
    """Draw an image with its objects, scaled to fit a square of ``side`` pixels, above the name of its file."""
    objects = (
        drawable(annotation, dataset_dict["height"], dataset_dict["width"]) for annotation in dataset_dict["annotations"]
    )
    annotations = [annotation for annotation in objects if annotation is not None]
    drawn = draw_annotations(read_image(dataset_dict), annotations, categories.names, categories.class_of)
    fitted = Image.fromarray(drawn)
    fitted.thumbnail((side, side))
    square = Image.new("RGB", (side, side + 16), "white")
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    ImageDraw.Draw(square).text((2, side + 2), Path(dataset_dict["file_name"]).name, fill="black")
    return np.asarray(square)


def drawable(annotation: dict, height: int, width: int) -> dict | None:
    """Return the part of an annotation that can be drawn; None if it is invalid.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    if not is_usable(annotation, height, width):
        return None
    kept = {key: value for key, value in annotation.items() if key != "segmentation"}
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        kept["segmentation"] = [p for p in mask if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    elif isinstance(mask, dict):
        kept["segmentation"] = mask
    return kept
