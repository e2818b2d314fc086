"""Images per second of one loader process, beside detectron2's DatasetMapper with the corresponding augmentations.

    OMP_NUM_THREADS=1 python benchmarks/data_loading.py
    OMP_NUM_THREADS=1 python benchmarks/data_loading.py --objects 2000 --images 3 --runs 2 --formats polygons

Images are generated JPEGs of 640 x 480 pixels with as many objects as COCO's on average, as polygons of COCO's sizes. A mapper
turns a dataset dict into a sample. Times are CPU seconds of one thread: the median over the images, of which the minimum over
the runs is reported; the mappers alternate. Ratios are to the first row of an augmentation. The bytes of a sample are what a
loader process sends to the training process. The peak is the memory that a call needs in addition, including its result. The
last columns are what 8 GPUs need that each take ``--rate`` images per second: loader processes in total, and megabytes per
second through shared memory. detectron2 crops polygons only if shapely is installed.

A second table compares decoders of JPEG files, alone: their pixels must equal Pillow's, with which this project decodes.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode, Instances
from measuring import machine, peak_megabytes
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from flash_internimage.data import TestMapper, TrainingMapper, presets

HEIGHT, WIDTH, CORNERS, GPUS = 480, 640, 24, 8
MASKS = {"polygons": "polygon", "bitmaps": "bitmask"}  # detectron2's names of the formats of masks
Mapper = Callable[[dict], dict]
Decoder = Callable[[bytes], np.ndarray]

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


def mappers(formats: Sequence[str]) -> dict[str, dict[str, Mapper]]:
    """Return this project's mapper, and detectron2's with the given formats of masks, for each preset and for evaluation."""

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
            table[name] = {f"detectron2, {kind}": theirs(name, MASKS[kind]) for kind in formats}
        own_mappers = {"this project": ours(augmentations), "this project, no masks": ours(augmentations, with_masks=False)}
        table.setdefault(name, {}).update(own_mappers)
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


def peak(mapper: Mapper, dataset_dicts: list[dict]) -> float:
    """Return the largest peak memory of a mapper over a few images, in MB."""
    copies = [copy.deepcopy(dataset_dict) for dataset_dict in dataset_dicts[:3]]
    return max(peak_megabytes(lambda copied=copied: mapper(copied)) for copied in copies) * 2**20 / 1e6


def decoders() -> dict[str, Decoder]:
    """Return functions that decode a JPEG file to RGB."""

    def pillow(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def opencv(data: bytes) -> np.ndarray:
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def torchvision(data: bytes) -> np.ndarray:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()

    return {"Pillow": pillow, "OpenCV": opencv, "torchvision": torchvision}


def jpegs() -> dict[str, bytes]:
    """Return JPEG files of different kinds."""
    kinds = {
        "4:2:0, quality 90": dict(subsampling=2, quality=90),
        "4:4:4, quality 95": dict(subsampling=0, quality=95),
        "4:2:0, progressive": dict(subsampling=2, quality=90, progressive=True),
        "gray": dict(quality=90),
    }
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8))
    image, found = noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), {}
    for kind, options in kinds.items():
        file = io.BytesIO()
        (image.convert("L") if kind == "gray" else image).save(file, "jpeg", **options)
        found[kind] = file.getvalue()
    return found


def print_decoders(repeats: int = 20) -> None:
    print("\n| JPEG file | decoder | ms | ratio | pixels that differ from Pillow's |")
    print("| --- | --- | ---: | ---: | ---: |")
    for kind, data in jpegs().items():
        expected, times = decoders()["Pillow"](data), {}
        for name, decode in decoders().items():
            measured = []
            for _ in range(repeats):
                start = time.process_time()
                image = decode(data)
                measured.append(time.process_time() - start)
            times[name] = min(measured)
            differing = (image != expected).any(axis=2).mean()
            print(
                f"| {kind} | {name} | {times[name] * 1e3:.2f} | {times[name] / times['Pillow']:.2f} | {differing:.1%} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=12, help="number of images (12)")
    parser.add_argument("--objects", type=int, default=7, help="objects of an image (7)")
    parser.add_argument("--runs", type=int, default=5, help="measured runs (5)")
    parser.add_argument("--rate", type=float, default=25.0, help="images per second that a GPU takes (25)")
    parser.add_argument(
        "--formats",
        nargs="*",
        choices=list(MASKS),
        default=list(MASKS),
        help="detectron2's masks (all); bitmaps of many objects take gigabytes",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{machine()}, OpenCV {cv2.__version__}; {args.objects} objects per image\n")
    columns = f"ms per image | images/s | ratio | MB per sample | peak MB | workers | MB/s, {args.rate:g}/s"
    print(f"| augmentation | mapper | {columns} |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        dataset_dicts = generate(Path(folder), args.images, args.objects)
        for augmentation, calls in mappers(args.formats).items():
            measured = measure(calls, dataset_dicts, args.runs)
            first = next(iter(measured.values()))[0]
            for name, (seconds, size) in measured.items():
                total = GPUS * args.rate
                cells = [f"{seconds * 1e3:.1f}", f"{1 / seconds:.0f}", f"{seconds / first:.2f}", f"{size / 1e6:.1f}"]
                cells += [
                    f"{peak(calls[name], dataset_dicts):.0f}",
                    f"{math.ceil(total * seconds)}",
                    f"{total * size / 1e6:,.0f}",
                ]
                print(f"| {augmentation} | {name} | {' | '.join(cells)} |", flush=True)
    print_decoders()


if __name__ == "__main__":
    main()
