#!/usr/bin/env python
"""Draw what the model is fed: the first batch of training, after augmentation, with its boxes and masks.

    python tools/show_batch.py configs/shapes/mask_rcnn_flash_internimage_nano.py
    python tools/show_batch.py configs/coco/mask_rcnn_flash_intern_image_t_fpn_3x_coco.py --output batch.png --images 16 \\
        data.train.json=train.json data.train.images=train data.test.json=val.json data.test.images=val train.seed=1
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import instantiate
from omegaconf import DictConfig
from PIL import Image

from flash_internimage.cli.errors import reported
from flash_internimage.data import (
    dataset_categories,
    require_registered,
    require_valid,
    use_augmentation_preset,
    use_custom_data,
)
from flash_internimage.data.resize import fit_size, resize_nearest
from flash_internimage.engine.config import load_config
from flash_internimage.evaluation.drawing import draw_objects, grid
from flash_internimage.files import write_atomically

_SIDE = 480  # of a cell of the grid, in pixels


def names_of_classes(cfg: DictConfig) -> list[str]:
    """Of the training data, which is checked; the config is pointed at data of the user's own if it names some."""
    categories = use_custom_data(cfg) if "data" in cfg else None
    if categories is not None:
        return categories.names
    datasets = cfg.dataloader.train.dataset.names
    datasets = [datasets] if isinstance(datasets, str) else list(datasets)
    for dataset in datasets:
        require_registered(dataset)
        require_valid(dataset)
    categories = dataset_categories(datasets[0])
    return [] if categories is None else categories.names


def draw_sample(sample: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """A sample of the loader with its objects, as RGB that fits into a cell of the grid."""
    image = np.ascontiguousarray(sample["image"].numpy().transpose(1, 2, 0))
    objects = sample["instances"]
    height, width = fit_size(*image.shape[:2], _SIDE, _SIDE)
    ratio = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    bitmaps = objects.gt_masks.tensor.numpy() if objects.has("gt_masks") else []
    return draw_objects(
        np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)),
        objects.gt_boxes.tensor.numpy() * ratio,
        objects.gt_classes.tolist(),
        names,
        masks=[resize_nearest(bitmap, height, width) for bitmap in bitmaps],
        scale=1.0,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="LazyConfig file (.py), or the .yaml of a run")
    parser.add_argument("--output", type=Path, default=Path("batch.png"), metavar="FILE", help="the picture (batch.png)")
    parser.add_argument("--images", type=int, default=16, metavar="N", help="how many of the batch (16)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.images < 1:
        parser.error(f"--images {arguments.images}: expected 1 or more")
    with reported("show_batch.py"):
        cfg = load_config(arguments.config, arguments.overrides)
        names = names_of_classes(cfg)
        use_augmentation_preset(cfg)
        cfg.dataloader.train.num_workers = 0
        batch = next(iter(instantiate(cfg.dataloader.train)))
        page = grid([draw_sample(sample, names) for sample in batch[: arguments.images]])
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(arguments.output, lambda path: Image.fromarray(page).save(path, format="PNG"))
    for sample in batch[: arguments.images]:
        height, width = sample["image"].shape[-2:]
        print(f"{sample['file_name']}: {width} x {height}, {len(sample['instances'])} objects")
    print(f"{len(batch)} images in the batch; {arguments.output}")


if __name__ == "__main__":
    main()
