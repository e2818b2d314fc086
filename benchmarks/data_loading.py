"""Images per second of one loader process, beside detectron2's DatasetMapper with the corresponding augmentations.

    OMP_NUM_THREADS=1 python benchmarks/data_loading.py
    OMP_NUM_THREADS=1 python benchmarks/data_loading.py --objects 2000

Images are generated JPEGs of 640 x 480 pixels with as many objects as COCO's on average, as polygons of COCO's sizes. A mapper
turns a dataset dict into a sample. Times are CPU seconds of one thread: the median over the images, of which the minimum over
the runs is reported; the mappers alternate. Ratios are to the first row of an augmentation. The bytes of a sample are what a
loader process sends to the training process. detectron2 crops polygons only if shapely is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode, Instances
from measuring import machine
from PIL import Image
from torch import Tensor

from flash_internimage.data import TestMapper, TrainingMapper, presets

HEIGHT, WIDTH, CORNERS = 480, 640, 24
Mapper = Callable[[dict], dict]

# detectron2's own augmentations for the presets. Its images have other pixels, since it resizes with PIL.
ENLARGE_AND_CROP = [
    T.ResizeShortestEdge([400, 500, 600], 1333, "choice"),
    T.RandomCrop("absolute_range", (384, 600)),
    T.ResizeShortestEdge(presets.MULTI_SCALE_SIDES, 1333, "choice"),
]
THEIRS = {
    "single_scale": [T.ResizeShortestEdge([800], 1333, "choice"), T.RandomFlip()],
    "multi_scale_crop": [T.RandomFlip(), *ENLARGE_AND_CROP],
    "large_scale_jitter": [T.RandomFlip(), T.ResizeScale(0.1, 2.0, 1024, 1024), T.FixedSizeCrop((1024, 1024), pad=False)],
}


def polygon(random: np.random.RandomState) -> np.ndarray:
    """Return the corners of a polygon inside the image, as (x, y) rows."""
    area = np.exp(random.uniform(np.log(10**2), np.log(300**2)))
    radius = np.sqrt(area / np.pi) * random.uniform(0.6, 1.4, 2)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * random.uniform(0.7, 1.0, (CORNERS, 1))
    return (corners + random.uniform([0, 0], [WIDTH, HEIGHT])).clip([0, 0], [WIDTH, HEIGHT])


def generate(folder: Path, images: int, objects: int) -> list[dict]:
    """Write images, smooth noise, and return their dataset dicts."""
    random, dataset_dicts = np.random.RandomState(0), []
    for number in range(images):
        noise = Image.fromarray(random.randint(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8))
        noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        annotations = []
        while len(annotations) < objects:
            corners = polygon(random)
            (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
            if x1 - x0 > 1 and y1 - y0 > 1:
                box = dict(bbox=[x0, y0, x1 - x0, y1 - y0], bbox_mode=BoxMode.XYWH_ABS)
                annotations.append(dict(**box, segmentation=[corners.ravel().tolist()], category_id=0, iscrowd=0))
        entry = dict(file_name=str(folder / f"{number}.jpg"), height=HEIGHT, width=WIDTH, image_id=number)
        dataset_dicts.append(entry | {"annotations": annotations})
    return dataset_dicts


def mappers() -> dict[str, dict[str, Mapper]]:
    """Return this project's mapper and detectron2's, for each preset and for evaluation."""

    def ours(augmentations: list, with_masks: bool = True) -> Mapper:
        return TrainingMapper([instantiate(augmentation) for augmentation in augmentations], with_masks)

    def theirs(name: str, masks: str) -> Mapper:
        return DatasetMapper(
            True, augmentations=THEIRS[name], image_format="RGB", use_instance_mask=True, instance_mask_format=masks
        )

    own = {
        "single_scale": presets.single_scale(),
        # The cropping half of the recipe, since images of one kind can be compared.
        "multi_scale_crop": [*presets.flip(), *presets.multi_scale_crop()[1].policies[1]],
        "large_scale_jitter": presets.large_scale_jitter(),
    }
    table: dict[str, dict[str, Mapper]] = {}
    for name, augmentations in own.items():
        # fvcore crops polygons with shapely.
        cropped = any(isinstance(augmentation, (T.RandomCrop, T.FixedSizeCrop)) for augmentation in THEIRS[name])
        if not cropped or importlib.util.find_spec("shapely"):
            table[name] = {"detectron2, polygons": theirs(name, "polygon")}
        table.setdefault(name, {}).update(
            {
                "detectron2, bitmaps": theirs(name, "bitmask"),
                "this project": ours(augmentations),
                "this project, no masks": ours(augmentations, with_masks=False),
            }
        )
    table["evaluation"] = {
        "detectron2": DatasetMapper(False, augmentations=THEIRS["single_scale"][:1], image_format="RGB"),
        "this project": TestMapper([instantiate(presets.single_scale()[0])]),
    }
    return table


def bytes_of(value: object) -> int:
    """Return the bytes of all tensors and arrays of a sample."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(bytes_of, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(bytes_of, value))
    if isinstance(value, Instances):
        return bytes_of(value.get_fields())
    return bytes_of(vars(value)) if hasattr(value, "__dict__") else 0


def measure(calls: dict[str, Mapper], dataset_dicts: list[dict], runs: int) -> dict[str, tuple[float, int]]:
    """Return for each mapper the CPU seconds of an image and the mean bytes of a sample."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    size = dict.fromkeys(calls, 0)
    for run in range(runs + 1):  # the first is not counted
        for name, mapper in calls.items():
            np.random.seed(run)
            times = []
            for dataset_dict in dataset_dicts:
                copied = copy.deepcopy(dataset_dict)
                start = time.process_time()
                sample = mapper(copied)
                times.append(time.process_time() - start)
                if run == 0:
                    size[name] += bytes_of(sample)
            if run:
                seconds[name].append(float(np.median(times)))
    return {name: (min(seconds[name]), size[name] // len(dataset_dicts)) for name in calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="number of images (12)")
    parser.add_argument("--objects", type=int, default=7, help="objects of an image (7)")
    parser.add_argument("--runs", type=int, default=5, help="measured runs (5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{machine()}, OpenCV {cv2.__version__}; {args.objects} objects per image\n")
    print("| augmentation | mapper | ms per image | images/s | ratio | MB per sample |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        dataset_dicts = generate(Path(folder), args.images, args.objects)
        for augmentation, calls in mappers().items():
            measured = measure(calls, dataset_dicts, args.runs)
            first = next(iter(measured.values()))[0]
            for name, (seconds, size) in measured.items():
                ratio = seconds / first
                cells = [f"{seconds * 1e3:.1f}", f"{1 / seconds:.0f}", f"{ratio:.2f}", f"{size / 1e6:.1f}"]
                print(f"| {augmentation} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
