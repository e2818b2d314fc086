"""Draw the first training batch of a config after augmentation, as the model gets it, with boxes and masks.

Examples:

  the batch of a config in the package:
    flash-internimage show-batch --config-file mask_rcnn_flash_internimage_nano --output batch

  your own dataset, with another seed:
    flash-internimage show-batch --config-file mask_rcnn_flash_intern_image_t_fpn_3x_coco --output batch --limit 8 \\
        data.train.json=train.json data.train.images=train data.test.json=val.json data.test.images=val train.seed=1

The visualization is written to FOLDER/batch.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import instantiate
from PIL import Image

from flash_internimage.data import use_augmentation_preset
from flash_internimage.data.resize import fit_size, resize_nearest
from flash_internimage.engine.auto_batch_size import AUTO
from flash_internimage.engine.config import load_config
from flash_internimage.engine.run import categories_of_data
from flash_internimage.evaluation.drawing import draw_objects, grid, write_png
from flash_internimage.plurals import counted

from .arguments import add_config, add_output, add_overrides, config_path, positive

_SIDE = 480  # of a cell of the grid, in pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_output(parser, "batch.png", required=True)
    parser.add_argument("--limit", type=positive, default=16, metavar="N", help="number of images (16)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    cfg = load_config(config_path(args.config_file), args.overrides, trust_config=args.trust_config)
    cfg.train.output_dir = str(args.output)  # where datasets are converted
    categories = categories_of_data(cfg, "train")
    names = [] if categories is None else categories.names
    use_augmentation_preset(cfg)
    cfg.dataloader.train.num_workers = 0
    if cfg.dataloader.train.get("total_batch_size") == AUTO:  # a GPU and a model decide
        cfg.dataloader.train.total_batch_size = cfg.train.reference_batch_size
    batch = next(iter(instantiate(cfg.dataloader.train)))
    shown = batch[: args.limit]
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "batch.png"
    write_png(grid([draw_sample(sample, names) for sample in shown]), file)
    for sample in shown:
        height, width = sample["image"].shape[-2:]
        print(f"{sample['file_name']}: {width} x {height}, {counted(sample['instances'], 'object')}")
    print(f"{counted(batch, 'image')} in the batch; {file}")
    return 0


def draw_sample(sample: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """Draw a sample of the training loader with its objects, scaled to fit a cell of the grid; RGB."""
    image = np.ascontiguousarray(sample["image"].numpy().transpose(1, 2, 0))
    objects = sample["instances"]
    height, width = fit_size(image.shape[0], image.shape[1], _SIDE, _SIDE)
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
