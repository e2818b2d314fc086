"""COCO's average precision at COCO's scale: this project's evaluation beside pycocotools, on the same generated detections.

    python benchmarks/coco_evaluation.py
    python benchmarks/coco_evaluation.py --images 500 --output benchmarks/results/coco_evaluation.md

Images, objects, classes and detections are as many as in COCO's val2017, and drawn from a seed: objects are ellipses of all
of COCO's sizes, as polygons, some of them crowds, as run-lengths; most are found, more or less well, some twice or as another
class, and false alarms fill up the rest. Each program runs in a process of its own, so that its peak memory is its own.
Reading the files is not counted. Processor seconds, of all threads together, are what other programs disturb least.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util

HEIGHT, WIDTH, CLASSES = 480, 640, 80
OBJECTS = 7.4  # a picture, on average, in val2017
CROWDS = 0.012  # share of crowd regions
RUNS = {"boxes": ["bbox"], "boxes and masks": ["bbox", "segm"]}
_CORNERS = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], axis=1)


def ellipse(center: np.ndarray, radii: np.ndarray) -> tuple[dict, list[float]]:
    """Box and run-length mask of an ellipse, cut at the border of the picture, and its polygon.

    Args:
        center: (x, y) in pixels.
        radii: horizontal and vertical, in pixels.
    """
    corners = (center + radii * _CORNERS).clip(0, [WIDTH, HEIGHT])
    polygon = corners.reshape(-1).round(2).tolist()
    (rle,) = mask_util.frPyObjects([polygon], HEIGHT, WIDTH)
    low, high = corners.min(axis=0), corners.max(axis=0)
    mask = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}
    return {"bbox": [*low.round(2).tolist(), *(high - low).round(2).tolist()], "segmentation": mask}, polygon


def random_ellipse(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Center and radii; in COCO's terms two in five are small, one in four large."""
    return random.uniform(0, [WIDTH, HEIGHT]), np.exp(random.normal(np.log(22), 0.9, 2)).clip(2, 300)


def generate(images: int, detections: int, seed: int = 0) -> tuple[dict, list[dict]]:
    """The content of an annotation file, and predictions in COCO's result format.

    Args:
        detections: in each picture.
    """
    random = np.random.RandomState(seed)
    truth, predictions = [], []
    for image_id in range(1, images + 1):
        objects = [(*random_ellipse(random), random.randint(1, CLASSES + 1)) for _ in range(random.poisson(OBJECTS))]
        for center, radii, category in objects:
            found, polygon = ellipse(center, radii)
            entry = {"id": len(truth) + 1, "image_id": image_id, "category_id": int(category), **found}
            entry["area"] = float(mask_util.area(found["segmentation"]))
            is_crowd = random.rand() < CROWDS
            truth.append({**entry, "iscrowd": 1} if is_crowd else {**entry, "iscrowd": 0, "segmentation": [polygon]})
        for number in range(detections):
            if number < 3 * len(objects) and random.rand() < 0.8:
                center, radii, category = objects[number % len(objects)]
                error = np.abs(radii) * 0.5 * random.rand() ** 2
                center, radii = center + random.normal(0, error), radii * np.exp(random.normal(0, 0.25 * random.rand(), 2))
                score = random.beta(3, 2)
                category = category if random.rand() < 0.8 else random.randint(1, CLASSES + 1)
            else:
                (center, radii), category, score = random_ellipse(random), random.randint(1, CLASSES + 1), random.beta(1, 6)
            found, _ = ellipse(center, radii)
            predictions.append({"image_id": image_id, "category_id": int(category), **found, "score": round(float(score), 6)})
    pictures = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    return {"images": pictures, "annotations": truth, "categories": categories}, predictions


def by_this_project(truth: dict, predictions: list[dict], tasks: Sequence[str]) -> list[float]:
    """AP, AP50, AP75, APs, APm and APl of each task in percent."""
    from flash_internimage.evaluation.average_precision import average_precision

    found = average_precision(truth, predictions, tasks)
    return [value for task in tasks for value in found[task].metrics.values()]


def by_pycocotools(truth: dict, predictions: list[dict], tasks: Sequence[str]) -> list[float]:
    """The same by the official implementation, as detectron2 calls it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    figures = []
    for task in tasks:
        if task == "segm":  # a box would count as the area of the object
            predictions = [{key: value for key, value in p.items() if key != "bbox"} for p in predictions]
        evaluation = COCOeval(coco, coco.loadRes(predictions), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        figures += (evaluation.stats[:6] * 100).tolist()
    return figures


PROGRAMS = {"this project": by_this_project, "pycocotools": by_pycocotools}


def gigabytes() -> float:
    """The most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(program: str, folder: Path) -> dict:
    """Evaluate the files of a folder in this process: seconds and figures of each run, and gigabytes."""
    evaluate = PROGRAMS[program]
    evaluate(*generate(images=2, detections=5), ["bbox"])  # imports
    truth = json.loads((folder / "truth.json").read_text())
    predictions = json.loads((folder / "predictions.json").read_text())
    result = {"data": gigabytes()}
    for name, tasks in RUNS.items():
        processor, start = time.process_time(), time.perf_counter()
        figures = evaluate(truth, predictions, tasks)
        seconds = time.perf_counter() - start
        result[name] = {"processor": time.process_time() - processor, "seconds": seconds, "figures": figures}
    return {**result, "peak": gigabytes()}


def in_a_process_of_its_own(program: str, folder: Path) -> dict:
    command = [sys.executable, __file__, "--measure", program, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, dict]) -> str:
    """The measurements as Markdown."""
    ours, theirs = results["this project"], results["pycocotools"]
    rows = ["| | pycocotools | this project | ratio |", "| --- | ---: | ---: | ---: |"]

    def row(name: str, a: float, b: float, digits: int) -> None:
        rows.append(f"| {name} | {a:.{digits}f} | {b:.{digits}f} | {a / b:.1f} |")

    for name in RUNS:
        row(f"{name}, processor seconds", theirs[name]["processor"], ours[name]["processor"], 1)
        row(f"{name}, seconds", theirs[name]["seconds"], ours[name]["seconds"], 1)
    row("most memory beside libraries and data, GB", *(result["peak"] - result["data"] for result in (theirs, ours)), 2)
    a, b = (result["boxes and masks"]["figures"] for result in (theirs, ours))
    for name, first in (("box AP", 0), ("mask AP", len(a) // 2)):
        rows.append(f"| {name} | {a[first]:.4f} | {b[first]:.4f} | |")
    worst = np.abs(np.subtract(a, b)).max()
    rows += ["", f"The twelve figures (AP, AP50, AP75, APs, APm, APl of boxes and masks) differ by at most {worst:.0e} points."]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="in each picture (100)")
    parser.add_argument("--output", type=Path, help="a file for the table, which is printed too")
    parser.add_argument("--measure", nargs=2, metavar=("PROGRAM", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        program, folder = arguments.measure
        print(json.dumps(measure(program, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = generate(arguments.images, arguments.detections)
        Path(folder, "truth.json").write_text(json.dumps(truth))
        Path(folder, "predictions.json").write_text(json.dumps(predictions))
        objects = len(truth["annotations"])
        heading = f"{arguments.images} images, {objects} objects of {CLASSES} classes, {len(predictions)} detections"
        del truth, predictions
        results = {program: in_a_process_of_its_own(program, Path(folder)) for program in PROGRAMS}
    text = f"{heading}:\n\n{table(results)}\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
