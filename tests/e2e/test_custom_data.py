"""Training and evaluation of each detector family on a custom dataset, in every combination in ``docs/custom_data.md``.

The annotations are boxes or masks; training starts from nothing, from an ImageNet backbone, or from a published detector with
the same or another number of classes.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from flash_internimage.checkpoint.published import to_published
from flash_internimage.data.shapes import annotation_file
from tests.data.formats.written import write_coco, write_yolo
from tests.e2e.conftest import REPOSITORY, data_overrides

FAMILIES = {
    "Mask R-CNN": "mask_rcnn_flash_internimage_nano",
    "Cascade Mask R-CNN": "cascade_flash_internimage_nano",
    "DINO": "dino_flash_internimage_nano",
}
WITHOUT_MASKS = {
    family: [
        f"model.roi_heads.{head}=null",
        "model.roi_heads.mask_pooler=null",
        "model.roi_heads.mask_in_features=null",
        "dataloader.train.mapper.with_masks=false",
    ]
    for family, head in (("Mask R-CNN", "mask_head"), ("Cascade Mask R-CNN", "mask_heads"))
}
CLASS_LAYERS = {
    ("Mask R-CNN", "boxes"): 4,
    ("Mask R-CNN", "masks"): 6,
    ("Cascade Mask R-CNN", "boxes"): 12,
    ("Cascade Mask R-CNN", "masks"): 18,
    ("DINO", "boxes"): 9,
    ("DINO", "masks"): 9,
}
# Per stage: two convolutions, the upsampling and the predictor, each with weight and bias.
MASK_HEAD_TENSORS = {"Mask R-CNN": 8, "Cascade Mask R-CNN": 24}
SHORT = [
    "train.max_iter=1",
    "train.eval_period=0",
    "train.report=false",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=0",
]


@pytest.fixture(scope="module")
def datasets(own_data, tmp_path_factory) -> dict[str, Path]:
    """The same images with masks, and with boxes only."""
    boxes = tmp_path_factory.mktemp("boxes") / "own data"
    shutil.copytree(own_data, boxes)
    for split in ("train", "val"):
        path = annotation_file(boxes, split)
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        path.write_text(json.dumps(content))
    return {"masks": own_data, "boxes": boxes}


@pytest.fixture(scope="module")
def checkpoints(own_data, tmp_path_factory) -> dict[tuple[str, str], Path | None]:
    """(start, family) -> a checkpoint in the published format with the nano model's shapes and random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    names = [entry["name"] for entry in json.loads(annotation_file(own_data, "train").read_text())["categories"]]
    class_names = {"published detector": names, "another class count": [*names, "a fifth", "a sixth", "a seventh"]}
    paths: dict[tuple[str, str], Path | None] = {}
    for family, config in FAMILIES.items():
        paths["nothing", family] = None
        for start, classes in class_names.items():
            cfg = LazyConfig.load(str(REPOSITORY / f"configs/shapes/{config}.py"))
            node = cfg.model if family == "DINO" else cfg.model.roi_heads
            node.num_classes = len(classes)
            published = to_published(instantiate(cfg.model).state_dict())
            paths[start, family] = folder / f"{config} {start}.pth"
            torch.save({"meta": {"CLASSES": tuple(classes)}, "state_dict": published}, paths[start, family])
        backbone = {name.removeprefix("backbone."): t for name, t in published.items() if name.startswith("backbone.")}
        paths["ImageNet backbone", family] = folder / f"{config} backbone.pth"
        torch.save({"model": {**backbone, "head.weight": torch.zeros(9, 2)}}, paths["ImageNet backbone", family])
    return paths


@pytest.mark.parametrize("start", ["nothing", "ImageNet backbone", "published detector", "another class count"])
@pytest.mark.parametrize("annotations", ["boxes", "masks"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_combination_trains_and_evaluates(train_net, datasets, checkpoints, tmp_path, family, annotations, start):
    checkpoint = checkpoints[start, family]
    done = train_net(
        "--config-file",
        f"configs/shapes/{FAMILIES[family]}.py",
        *SHORT,
        *data_overrides(datasets[annotations]),
        *(WITHOUT_MASKS.get(family, []) if annotations == "boxes" else []),
        f"train.init_checkpoint={checkpoint or ''}",
        f"train.output_dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr

    learns_masks = annotations == "masks" and family != "DINO"
    metrics = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert ("bbox/AP" in metrics, "segm/AP" in metrics) == (True, learns_masks)

    line = next((text for text in done.stdout.splitlines() if "matched" in text), "")
    assert bool(line) == (checkpoint is not None)
    from_detector = start in ("published detector", "another class count")
    reinitialized = CLASS_LAYERS[family, annotations] if start == "another class count" else 0
    left_out = MASK_HEAD_TENSORS.get(family, 0) if from_detector and annotations == "boxes" else 0
    assert count(r"(\d+) re-initialized for another number of classes", line) == reinitialized
    assert count(r"(\d+) left in the file \(the model has no roi_heads.mask_head\)", line) == left_out
    assert (count(r"(\d+) missing", line) > 0) == (start == "ImageNet backbone")


def count(pattern: str, line: str) -> int:
    """The number in a part of the log line; 0 if the line has no such part."""
    found = re.search(pattern, line)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def yolo(tmp_path_factory) -> Path:
    """``data.yaml`` of six training images, without a validation split."""
    root = tmp_path_factory.mktemp("yolo")
    write_coco(root / "coco", 6, 1)
    file = write_yolo(root / "coco", root / "yolo")
    file.write_text(file.read_text().replace("val:", "# val:"))
    return file


def test_held_out_images_stay_the_same_in_a_resumed_run(train_net, yolo, tmp_path):
    output, config = tmp_path / "output", f"configs/shapes/{FAMILIES['DINO']}.py"
    first = train_net(
        "--config-file", config, *SHORT, f"data.train.yolo={yolo}", "data.val_fraction=0.3", f"train.output_dir={output}"
    )
    assert first.returncode == 0, first.stderr[-2000:]
    test = json.loads((output / "dataset/test.json").read_text())
    assert len(test["images"]) == 2

    for name in ("later.jpg", "latest.jpg"):  # new images are for training; another draw would hold out others
        shutil.copy(yolo.parent / "images/val/000000100001.jpg", yolo.parent / f"images/train/{name}")
    resumed = train_net("--config-file", output / "config.yaml", "--resume", "train.max_iter=2")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert len(json.loads((output / "dataset/train.json").read_text())["images"]) == 6
    names = {image["file_name"] for image in json.loads((output / "dataset/test.json").read_text())["images"]}
    assert names == {image["file_name"] for image in test["images"]}
