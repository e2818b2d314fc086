"""Time and memory of COCO's average precision at the size of val2017, compared with pycocotools on the same detections.

    python benchmarks/coco_evaluation.py
    python benchmarks/coco_evaluation.py --images 500 --output benchmarks/results/coco_evaluation.md

The generated dataset has as many images, objects and classes as COCO's val2017. Objects are ellipses of all of COCO's sizes,
as polygons, or as RLE if they are crowds. Detections are displaced objects, some duplicated or of a wrong class, and false
positives. Each implementation runs in its own process, so that peak memory can be compared. Reading the files is not timed.
CPU seconds are summed over threads; they are least affected by other processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch

from flash_internimage.engine.memory import peak_memory

HEIGHT, WIDTH, CLASSES = 480, 640, 80
OBJECTS = 7.4  # mean number per image in val2017
CROWDS = 0.012  # fraction of crowd regions
RUNS = {"boxes": ["bbox"], "boxes and masks": ["bbox", "segm"]}
_CORNERS = np.stack([np.cos(np.arange(24) * np.pi / 12), np.sin(np.arange(24) * np.pi / 12)], axis=1)


def ellipse(center: np.ndarray, radii: np.ndarray) -> tuple[dict, list[float]]:
    """Return box and RLE of an ellipse clipped to the image, and its polygon.

    Args:
        center: center (x, y) in pixels.
        radii: horizontal and vertical radius in pixels.
    """
    corners = (center + radii * _CORNERS).clip(0, [WIDTH, HEIGHT])
    polygon = corners.reshape(-1).round(2).tolist()
    (rle,) = mask_util.frPyObjects([polygon], HEIGHT, WIDTH)
    low, high = corners.min(axis=0), corners.max(axis=0)
    mask = {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}
    return {"bbox": [*low.round(2).tolist(), *(high - low).round(2).tolist()], "segmentation": mask}, polygon


def random_ellipse(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Draw center and radii of an ellipse; in COCO's terms two in five are small, one in four is large."""
    return random.uniform(0, [WIDTH, HEIGHT]), np.exp(random.normal(np.log(22), 0.9, 2)).clip(2, 300)


def generate(images: int, detections: int, seed: int = 0) -> tuple[dict, list[dict]]:
    """Generate the content of an annotation file, and predictions in COCO's result format.

    Args:
        images: number of images.
        detections: number of detections per image.
        seed: seed of the generator.
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
    listed = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    return {"images": listed, "annotations": truth, "categories": categories}, predictions


def by_this_project(truth: dict, predictions: list[dict], tasks: Sequence[str]) -> list[float]:
    """Compute AP, AP50, AP75, APs, APm and APl of each task, in percent, with this project."""
    from flash_internimage.evaluation.average_precision import average_precision

    found = average_precision(truth, predictions, tasks)
    return [value for task in tasks for value in found[task].metrics.values()]


def by_pycocotools(truth: dict, predictions: list[dict], tasks: Sequence[str]) -> list[float]:
    """Compute the same metrics with the official implementation, as detectron2 calls it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    metrics = []
    for task in tasks:
        if task == "segm":  # with a box pycocotools would use the area of the box instead of the mask's
            predictions = [{key: value for key, value in p.items() if key != "bbox"} for p in predictions]
        evaluation = COCOeval(coco, coco.loadRes(predictions), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        metrics += (evaluation.stats[:6] * 100).tolist()
    return metrics


IMPLEMENTATIONS = {"this project": by_this_project, "pycocotools": by_pycocotools}


def peak_gigabytes() -> float:
    """Return the peak RSS of this process in GiB."""
    return peak_memory(torch.device("cpu")) / 2**30


def measure(implementation: str, folder: Path) -> dict:
    """Evaluate the files in a folder in this process; return time and metrics of each run, and peak memory."""
    evaluate = IMPLEMENTATIONS[implementation]
    evaluate(*generate(images=2, detections=5), ["bbox"])  # warm-up: imports
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    predictions = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    result = {"data": peak_gigabytes()}
    for name, tasks in RUNS.items():
        cpu_start, start = time.process_time(), time.perf_counter()
        metrics = evaluate(truth, predictions, tasks)
        seconds = time.perf_counter() - start
        result[name] = {"cpu": time.process_time() - cpu_start, "seconds": seconds, "metrics": metrics}
    return {**result, "peak": peak_gigabytes()}


def measure_in_subprocess(implementation: str, folder: Path) -> dict:
    command = [sys.executable, __file__, "--measure", implementation, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, dict]) -> str:
    """Format the measurements as a Markdown table."""
    ours, theirs = results["this project"], results["pycocotools"]
    rows = ["| | pycocotools | this project | ratio |", "| --- | ---: | ---: | ---: |"]

    def row(name: str, a: float, b: float, digits: int) -> None:
        rows.append(f"| {name} | {a:.{digits}f} | {b:.{digits}f} | {a / b:.1f} |")

    for name in RUNS:
        row(f"{name}, CPU seconds", theirs[name]["cpu"], ours[name]["cpu"], 1)
        row(f"{name}, seconds", theirs[name]["seconds"], ours[name]["seconds"], 1)
    row("peak memory without libraries and data, GB", *(result["peak"] - result["data"] for result in (theirs, ours)), 2)
    a, b = (result["boxes and masks"]["metrics"] for result in (theirs, ours))
    for name, first in (("box AP", 0), ("mask AP", len(a) // 2)):
        rows.append(f"| {name} | {a[first]:.4f} | {b[first]:.4f} | |")
    worst = np.abs(np.subtract(a, b)).max()
    rows += ["", f"The twelve metrics (AP, AP50, AP75, APs, APm, APl of boxes and masks) differ by at most {worst:.0e} points."]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image (100)")
    parser.add_argument("--output", type=Path, help="file for the table, which is also printed")
    parser.add_argument("--measure", nargs=2, metavar=("IMPLEMENTATION", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        implementation, folder = arguments.measure
        print(json.dumps(measure(implementation, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        truth, predictions = generate(arguments.images, arguments.detections)
        Path(folder, "truth.json").write_text(json.dumps(truth), encoding="utf-8")
        Path(folder, "predictions.json").write_text(json.dumps(predictions), encoding="utf-8")
        objects = len(truth["annotations"])
        heading = f"{arguments.images} images, {objects} objects of {CLASSES} classes, {len(predictions)} detections"
        del truth, predictions
        results = {implementation: measure_in_subprocess(implementation, Path(folder)) for implementation in IMPLEMENTATIONS}
    text = f"{heading}:\n\n{table(results)}\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
