"""Start of a training run on a dataset of COCO's size, beside detectron2's loader: seconds to the first batch, and memory.

    python benchmarks/data_start.py
    python benchmarks/data_start.py --scales 0.1 1 2.5

At scale 1 the generated annotation file is as large as COCO's for training: 118,000 images with 826,000 polygons. The file and
the images (links to two JPEGs) are generated in a temporary folder, which needs a gigabyte for each unit of scale.

Each row is a process with two loader workers that loads the dataset and takes a batch of two images. Seconds are CPU seconds of
the process, including imports, until that batch. Memory is in MB: the peak RSS of the process, and the proportional set size
(PSS), in which memory that several processes share counts once, of the process and of a worker after the first batch. The
processes of a loader run at the same time, as the ranks of a machine: the last column is what each adds to the PSS of all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES, OBJECTS, WORKERS = 118_000, 7, 2  # images at scale 1, objects of an image, loader workers
LARGE, SMALL = 640, 480  # sides of the images
NAME = "generated_train"


def shapes(number: int) -> list[str]:
    """Return objects as fragments of JSON: polygons with 8 to 36 corners, rounded to two digits as COCO's, and their boxes."""
    random, found = np.random.RandomState(0), []
    for _ in range(number):
        corners = random.randint(8, 37)
        radius = np.exp(random.uniform(np.log(6), np.log(160)))
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * random.uniform(0.7, 1, (corners, 1))
        polygon = (circle * radius + random.uniform(60, SMALL - 60, 2)).clip(0, SMALL).round(2)
        (x0, y0), (x1, y1) = polygon.min(axis=0), polygon.max(axis=0)
        entry = {"segmentation": [polygon.ravel().tolist()], "area": round(float((x1 - x0) * (y1 - y0)) * 0.7, 4), "iscrowd": 0}
        entry["bbox"] = [round(float(number), 2) for number in (x0, y0, x1 - x0, y1 - y0)]
        found.append(json.dumps(entry)[1:-1])
    return found


def generate(folder: Path, scale: float) -> tuple[Path, Path]:
    """Write an annotation file and its images; return their paths."""
    random, number = np.random.RandomState(0), round(IMAGES * scale)
    images = folder / "images"
    images.mkdir(parents=True)
    for name, size in (("landscape", (LARGE, SMALL)), ("portrait", (SMALL, LARGE))):
        pixels = random.randint(0, 256, (size[1] // 8, size[0] // 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{name}.jpg")
    known = shapes(20_000)
    with open(folder / "annotations.json", "w", encoding="utf-8") as file:
        file.write('{"images": [')
        for i, landscape in enumerate((random.rand(number) < 0.7).tolist()):
            name, (width, height) = f"{i:012}.jpg", (LARGE, SMALL) if landscape else (SMALL, LARGE)
            os.symlink(f"../{'landscape' if landscape else 'portrait'}.jpg", images / name)
            url = f"http://images.cocodataset.org/train2017/{name}"
            entry = {"license": 3, "file_name": name, "coco_url": url, "height": height, "width": width}
            file.write((", " if i else "") + json.dumps(entry | {"date_captured": "2013-11-14 11:18:45", "id": i}))
        file.write('], "annotations": [')
        drawn = random.randint(0, len(known), number * OBJECTS).tolist()
        image_ids = random.permutation(np.repeat(np.arange(number), OBJECTS)).tolist()
        categories = random.randint(1, 81, number * OBJECTS).tolist()
        for i, (which, image, category) in enumerate(zip(drawn, image_ids, categories, strict=True)):
            ids = f'"image_id": {image}, "category_id": {category}, "id": {i + 1}'
            file.write((", " if i else "") + f"{{{known[which]}, {ids}}}")
        file.write(f'], "categories": {json.dumps([{"id": i, "name": f"class {i}"} for i in range(1, 81)])}}}')
    return folder / "annotations.json", images


def loader_of_detectron2() -> Iterable[list[dict]]:
    import detectron2.data.transforms as T
    from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts

    augmentations = [T.ResizeShortestEdge([800], 1333, "choice"), T.RandomFlip()]
    mapper = DatasetMapper(True, augmentations=augmentations, image_format="RGB", use_instance_mask=True)
    dataset_dicts = get_detection_dataset_dicts(NAME)
    return build_detection_train_loader(dataset_dicts, mapper=mapper, total_batch_size=2, num_workers=WORKERS)


def loader_of_this_project() -> Iterable[list[dict]]:
    from detectron2.config import instantiate

    from flash_internimage.data import TrainingMapper, build_train_loader, presets, require_valid, training_dataset_dicts

    require_valid(NAME)
    dataset_dicts = training_dataset_dicts(NAME, with_masks=True)
    mapper = TrainingMapper([instantiate(augmentation) for augmentation in presets.single_scale()])
    return build_train_loader(dataset_dicts, mapper, total_batch_size=2, num_workers=WORKERS, seed=0)


LOADERS = {"detectron2": loader_of_detectron2, "this project": loader_of_this_project}


def kilobytes(pid: int | str, file: str, key: str) -> float:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return float(found[1])


def serve(loader: str, annotations: str, images: str) -> None:
    """Take a batch, and answer each line on standard input with what the process uses by then, as JSON."""
    import multiprocessing

    from detectron2.data.datasets import register_coco_instances

    register_coco_instances(NAME, {}, annotations, images)
    batches = iter(LOADERS[loader]())
    next(batches)
    seconds = time.process_time()
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        workers = [kilobytes(child.pid or 0, "smaps_rollup", "Pss") for child in multiprocessing.active_children()]
        used = {"seconds": seconds, "peak": kilobytes("self", "status", "VmHWM"), "worker": float(np.mean(workers))}
        print(json.dumps(used | {"process": kilobytes("self", "smaps_rollup", "Pss")}), flush=True)


def measure(loader: str, annotations: Path, images: Path, cache: Path, ranks: int) -> Iterator[dict[str, float]]:
    """Start processes one after another; yield what each uses when all have started."""
    command = [sys.executable, __file__, "--serve", loader, str(annotations), str(images)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    processes, before = [], 0.0
    log = annotations.with_name("stderr.txt")
    try:
        for _ in range(ranks):
            with open(log, "w", encoding="utf-8") as stderr:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8", env=environment
                )
            processes.append(process)
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit(f"the loader of {loader} failed:\n{log.read_text(encoding='utf-8')}")
            answers = [ask(each) for each in processes]
            total = sum(answer["process"] + WORKERS * answer["worker"] for answer in answers)
            yield answers[-1] | {"added": total - before}
            before = total
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ask(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="+", default=[0.1, 1.0], help="sizes, in units of COCO's (0.1 1)")
    parser.add_argument("--ranks", type=int, default=2, help="processes of a machine (2)")
    parser.add_argument("--loaders", nargs="+", default=list(LOADERS), help="loaders to measure (all)")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(*args.serve)
        return
    print("| images | file, MB | loader | CPU s to batch | peak | PSS of process | PSS of worker | added |")
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for scale in args.scales:
        with tempfile.TemporaryDirectory() as folder:
            annotations, images = generate(Path(folder) / "data", scale)
            size = annotations.stat().st_size / 1e6
            for loader in args.loaders:
                for rank, used in enumerate(measure(loader, annotations, images, Path(folder) / "cache", args.ranks)):
                    megabytes = " | ".join(f"{used[key] * 1024 / 1e6:,.0f}" for key in ("peak", "process", "worker", "added"))
                    row = f"{round(IMAGES * scale):,} | {size:.0f} | {loader}, rank {rank}"
                    print(f"| {row} | {used['seconds']:.1f} | {megabytes} |", flush=True)


if __name__ == "__main__":
    main()
