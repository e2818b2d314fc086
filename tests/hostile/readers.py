"""Readers of files to fuzz, each with valid files, a mutation of their format, and a function that uses the contents."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from flash_internimage.checkpoint import Checkpointer, read_checkpoint
from flash_internimage.checkpoint.numpy_values import BUILDERS
from flash_internimage.cli.draw import group_by_image, require_drawable
from flash_internimage.data import Categories, TrainingMapper
from flash_internimage.data.custom import register_in_place
from flash_internimage.data.dataset_dicts import training_dataset_dicts
from flash_internimage.data.registered import require_valid
from flash_internimage.data.shapes import annotation_file, write_split
from flash_internimage.engine.config import load_config, save_config
from flash_internimage.errors import UserError
from flash_internimage.evaluation.average_precision import average_precision
from flash_internimage.evaluation.report import load
from flash_internimage.evaluation.report_matching import confusion, match
from flash_internimage.evaluation.saved import evaluation_to_json, read_predictions, write_json
from flash_internimage.images import has_exif_rotation, read_rgb

from .mutations import mutate_archive, mutate_bytes, mutate_json, mutate_text

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """One kind of files.

    Attributes:
        valid: valid files.
        mutate: function that changes the contents of one.
        read: function that reads a file, and uses what it holds.
    """

    valid: list[Path]
    mutate: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], object]


def readers(folder: Path) -> dict[str, Reader]:
    """Write valid files of each kind into a folder, and return their readers."""
    return {
        "checkpoint": Reader(_archives(folder), mutate_archive, _read_checkpoint),
        "old checkpoint": Reader(_old_checkpoints(folder), mutate_bytes, _read_checkpoint),
        "safetensors": Reader(_safetensors(folder), mutate_bytes, _read_checkpoint),
        **_data_readers(folder),
        "config": Reader(_configs(folder), mutate_text, lambda path: load_config(str(path), ["train.max_iter=3"])),
        "image": Reader(_images(folder), mutate_bytes, lambda path: (has_exif_rotation(path), read_rgb(path))),
    }


def _model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def _read_checkpoint(path: Path) -> None:
    read_checkpoint(path, allow=BUILDERS if path.suffix == ".pth" else ())
    model = _model()
    checkpointer = Checkpointer(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    checkpointer.add_checkpointable("classes", Categories({1: "mug", 2: "fork"}))
    try:
        checkpointer.load(str(path))
    except UserError as error:
        if "these types are harmless" not in str(error):  # the values of NumPy that were allowed above
            raise


def _contents() -> dict:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "classes": ["mug", "fork"], "iteration": 3}


def _archives(folder: Path) -> list[Path]:
    paths = [folder / "plain.pth", folder / "numpy.pth", folder / "nested.pth"]
    torch.save(_contents(), paths[0])
    torch.save({**_contents(), "meta": {"best": np.float64(0.5), "seen": np.arange(6).reshape(2, 3), "b": b"abc"}}, paths[1])
    torch.save(
        {"state_dict": _model().state_dict(), "meta": {"CLASSES": ("mug", "fork"), "a": [{1, 2}, (3.0, None)]}}, paths[2]
    )
    return paths


def _old_checkpoints(folder: Path) -> list[Path]:
    path = folder / "old.pth"
    torch.save(_contents(), path, _use_new_zipfile_serialization=False)
    return [path]


def _safetensors(folder: Path) -> list[Path]:
    path = folder / "weights.safetensors"
    save_file(_model().state_dict(), path)
    return [path]


def _data_readers(folder: Path) -> dict[str, Reader]:
    write_split(folder / "data", "val", 3)
    annotations, images = annotation_file(folder / "data", "val"), folder / "data" / "val"
    truth = json.loads(annotations.read_text())
    sizes = {image["id"]: image for image in truth["images"]}
    categories = Categories.from_coco(truth["categories"])
    keys = ("image_id", "category_id", "bbox", "segmentation")
    predictions = [{key: a[key] for key in keys} | {"score": 0.9} for a in truth["annotations"] if not a["iscrowd"]]
    run = folder / "run"
    run.mkdir()
    metadata = MetadataCatalog.get("fuzzed evaluation").set(json_file=str(annotations), image_root=str(images))
    scores = average_precision(truth, predictions, ["bbox"])
    evaluation = evaluation_to_json(metadata, truth, scores)
    for task in evaluation["tasks"].values():  # mutations should meet the other parts, too
        task["precision"] = [[[1.0] * len(categories)] * 101] * 10
    write_json(run / "coco_instances_results.json", predictions)
    write_json(run / "evaluation.json", evaluation)

    def read_annotations(path: Path) -> None:
        register_in_place("fuzzed", str(path), str(images))
        require_valid("fuzzed")
        mapper = TrainingMapper([])
        for dataset_dict in training_dataset_dicts("fuzzed", filter_empty=False, min_side=1):
            mapper.with_masks = all("segmentation" in a for a in dataset_dict["annotations"])
            mapper(dataset_dict)
        average_precision(json.loads(path.read_text()), [], ["bbox"])

    def read_detections(path: Path) -> None:
        for image_id, found in group_by_image(read_predictions(path), 0.5).items():
            if image_id in sizes:
                require_drawable(found, sizes[image_id], categories, path)

    def read_report(path: Path) -> None:
        data = load(path.parent)
        matches = match(data.detections, data.objects, len(data.files), 0.5)
        confusion(data.detections, data.objects, matches, len(data.names))

    def read_beside(name: str) -> Callable[[Path], None]:
        """Read a report, of which one file is the mutated one."""

        def read(path: Path) -> None:
            target = path.parent / name
            contents = {file.name: file.read_bytes() for file in run.iterdir()} | {name: path.read_bytes()}
            if name == "truth.json":
                contents["evaluation.json"] = json.dumps({**evaluation, "annotation_file": str(target)}).encode()
            for file, content in contents.items():
                (path.parent / file).write_bytes(content)
            read_report(target)

        return read

    return {
        "annotations": Reader([annotations], mutate_json, read_annotations),
        "predictions": Reader([run / "coco_instances_results.json"], mutate_json, read_detections),
        "annotations of a report": Reader([annotations], mutate_json, read_beside("truth.json")),
        "predictions of a report": Reader(
            [run / "coco_instances_results.json"], mutate_json, read_beside("coco_instances_results.json")
        ),
        "evaluation": Reader([run / "evaluation.json"], mutate_json, read_beside("evaluation.json")),
    }


def _configs(folder: Path) -> list[Path]:
    paths = []
    for name in ("mask_rcnn", "dino"):
        paths.append(folder / f"{name}.yaml")
        save_config(load_config(str(REPOSITORY / f"configs/shapes/{name}_flash_internimage_nano.py")), str(paths[-1]))
    paths.append(folder / "partial.yaml")
    cfg = load_config(str(REPOSITORY / "configs/coco/cascade_flash_intern_image_l_fpn_1x_coco.py"))
    save_config(cfg, str(paths[-1]))
    return paths


def _images(folder: Path) -> list[Path]:
    pixels = np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    paths = []
    for suffix, settings in (
        ("png", {}), ("jpg", {"exif": exif}), ("gif", {}), ("bmp", {}), ("tiff", {"compression": "tiff_lzw"}), ("webp", {}),
        ("ppm", {}), ("tga", {}), ("pcx", {}), ("ico", {}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, format={"jpg": "JPEG"}.get(suffix, suffix.upper()), **settings)
        paths.append(folder / f"image.{suffix}")
        paths[-1].write_bytes(buffer.getvalue())
    return paths
