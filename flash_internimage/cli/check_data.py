#!/usr/bin/env python
"""Say what is wrong with a dataset in COCO's format, and what is in it, before hours are spent on training.

    python tools/check_data.py --json train.json --images train/
    python tools/check_data.py --json train.json --images train/ --output check     # and pictures in check/

The annotations are checked as train_net.py checks them. Beside that, every image is opened: a damaged file, or one that is
not of the size in the annotations, would stop the training when it is reached. The exit code is 1 if there are errors;
warnings tell what is left out of training or looks like a mistake.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from flash_internimage.cli.errors import reported
from flash_internimage.data.check import OBJECT_SIZES, DatasetReport, check_dataset, read_json
from flash_internimage.data.mapper import read_image
from flash_internimage.data.validation import is_usable, usable_images
from flash_internimage.evaluation.drawing import draw_annotations, grid
from flash_internimage.files import write_atomically

_MOST_SHOWN = 10
_MOST_WORKERS = 4


def problem_of_image(dataset_dict: dict) -> str | None:
    """Why an image cannot be trained on, or None; its pixels are decoded."""
    try:
        read_image(dataset_dict)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def unreadable_images(dataset_dicts: Sequence[dict]) -> dict[str, str]:
    """What is wrong with the images that cannot be read, by file name."""
    workers = min(_MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:  # decoding does not hold Python's lock
        problems = list(tqdm(pool.map(problem_of_image, dataset_dicts), total=len(dataset_dicts), desc="reading", unit="image"))
    return {
        dataset_dict["file_name"]: problem
        for dataset_dict, problem in zip(dataset_dicts, problems, strict=True)
        if problem is not None
    }


def image_dataset_dicts(content: dict, report: DatasetReport) -> list[dict]:
    """The images of an annotation file in detectron2's format, with COCO's annotations, those that are usable.

    Images whose file is missing are left out: the report names them.
    """
    images = usable_images(content)
    annotations = defaultdict(list)
    if isinstance(content.get("annotations"), list):
        for annotation in content["annotations"]:
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


def sizes_line(report: DatasetReport) -> str:
    """Which sizes the images have."""
    sizes = sorted(report.image_sizes.elements(), key=lambda size: size[0] * size[1])
    if not sizes:
        return "none"
    smallest, median, largest = (f"{width} x {height}" for height, width in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    return smallest if smallest == largest else f"{smallest} to {largest}, median {median}"


def summary(report: DatasetReport) -> str:
    """What a dataset holds."""
    total = sum(report.objects.values())
    width = max([len(name) for name in report.categories.values()], default=0)
    lines = [
        f"images       {report.num_images}, of them without objects {report.num_without_objects}",
        f"sizes        {sizes_line(report)} pixels",
        f"annotations  {report.num_annotations}, of them to train on {total}",
        "objects      " + ", ".join(f"{report.objects_by_size[size]} {size}" for size in OBJECT_SIZES),
        "",
        f"{'class':>5}  {'id':>6}  {'name':<{width}}  {'objects':>8}  {'share':>6}  {'images':>7}",
    ]
    for number, (id_, name) in enumerate(report.categories.items()):
        objects, images = report.objects.get(id_, 0), report.images_with.get(id_, 0)
        share = objects / total if total else 0.0
        lines.append(f"{number:>5}  {id_:>6}  {name:<{width}}  {objects:>8}  {share:>6.1%}  {images:>7}")
    return "\n".join(lines)


def choose(dataset_dicts: Sequence[dict], limit: int) -> list[dict]:
    """Some dataset dicts at random, such that as many categories as possible are seen, rare ones first."""
    shuffled = random.Random(0).sample(dataset_dicts, len(dataset_dicts))
    holding: dict[int, list[int]] = defaultdict(list)
    for number, dataset_dict in enumerate(shuffled):
        for category in {annotation["category_id"] for annotation in dataset_dict["annotations"]}:
            holding[category].append(number)
    chosen: dict[int, None] = {}  # keeps the order
    for numbers in sorted(holding.values(), key=len):
        if not chosen.keys() & set(numbers):
            chosen[numbers[0]] = None
    chosen.update(dict.fromkeys(range(len(shuffled))))
    return [shuffled[number] for number in list(chosen)[:limit]]


def tile(dataset_dict: dict, categories: dict[int, str], side: int = 320) -> np.ndarray:
    """An image with its objects, fitted into a square of (side, side) pixels, over the name of its file."""
    class_of = {id_: number for number, id_ in enumerate(categories)}
    objects = (
        drawable(annotation, dataset_dict["height"], dataset_dict["width"]) for annotation in dataset_dict["annotations"]
    )
    annotations = [annotation for annotation in objects if annotation is not None]
    picture = draw_annotations(read_image(dataset_dict), annotations, list(categories.values()), class_of)
    fitted = Image.fromarray(picture)
    fitted.thumbnail((side, side))
    square = Image.new("RGB", (side, side + 16), "white")
    square.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    ImageDraw.Draw(square).text((2, side + 2), Path(dataset_dict["file_name"]).name, fill="black")
    return np.asarray(square)


def drawable(annotation: dict, height: int, width: int) -> dict | None:
    """What can be drawn of an annotation, sound or not, in an image of height x width pixels; None: nothing."""
    if not is_usable(annotation, height, width):
        return None
    kept = {key: value for key, value in annotation.items() if key != "segmentation"}
    mask = annotation.get("segmentation")
    if isinstance(mask, list):
        kept["segmentation"] = [p for p in mask if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    elif isinstance(mask, dict):
        kept["segmentation"] = mask
    return kept


def listed(kind: str, sentences: Iterable[str]) -> str:
    """One line a sentence, the first of many."""
    sentences = list(sentences)
    lines = [f"{kind}: {sentence}" for sentence in sentences[:_MOST_SHOWN]]
    if len(sentences) > _MOST_SHOWN:
        lines.append(f"{kind}: and {len(sentences) - _MOST_SHOWN} more")
    return "\n".join(lines)


def check(arguments: argparse.Namespace) -> bool:
    """Print the report and draw what is asked for; whether the dataset is sound."""
    report = check_dataset(arguments.json, arguments.images)
    dataset_dicts = image_dataset_dicts(read_json(arguments.json), report) if report.categories else []
    unreadable = unreadable_images(dataset_dicts) if dataset_dicts else {}
    if report.categories:
        print(f"{summary(report)}\n")
    errors = [*report.errors, *filter(None, [report.untrainable]), *unreadable.values()]
    for kind, sentences in (("warning", report.warnings), ("error", errors)):
        if sentences:
            print(listed(kind, sentences))
    readable = [dataset_dict for dataset_dict in dataset_dicts if dataset_dict["file_name"] not in unreadable]
    if arguments.output is not None and readable:
        arguments.output.mkdir(parents=True, exist_ok=True)
        file = arguments.output / "grid.png"
        chosen = tqdm(choose(readable, arguments.limit), desc="drawing", unit="image")
        page = grid([tile(dataset_dict, report.categories) for dataset_dict in chosen])
        page = ImageOps.expand(Image.fromarray(page), border=8, fill="white")
        write_atomically(file, lambda path: page.save(path, format="PNG"))
        print(f"{len(chosen)} images with their objects: {file}")
    print(f"{len(errors)} errors, {len(report.warnings)} warnings")
    return not errors


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, metavar="FILE", help="annotations in COCO's format")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="the folder of the images")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to put grid.png, images with their objects")
    parser.add_argument("--limit", type=int, default=25, metavar="N", help="how many images it shows (25)")
    arguments = parser.parse_args(argv)
    if arguments.limit < 1:
        parser.error(f"--limit {arguments.limit}: expected 1 or more")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with reported("check_data"):
        sound = check(arguments)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
