"""Evaluate a checkpoint on the test dataset of a config: COCO's metrics and a report.

Examples:

  a checkpoint that a training run wrote:
    flash-internimage eval --config-file mask_rcnn_flash_internimage_nano --weights output/model_final.pth

  a published detector on COCO, with its published checkpoint:
    flash-internimage eval --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco

  an exported file, on the data of a config:
    flash-internimage eval --config-file output/config.yaml --weights model.onnx train.output_dir=output/exported

  the last checkpoint of a run:
    flash-internimage eval --config-file output/config.yaml --resume

  another dataset, on eight GPUs:
    flash-internimage eval --config-file output/config.yaml --weights output/model_final.pth --num-gpus 8 \\
        data.test.json=val.json data.test.images=val train.output_dir=output/val

  small objects in large images, on tiles:
    flash-internimage eval --config-file output/config.yaml --weights output/model_final.pth --tile 640 \\
        train.output_dir=output/tiles

The metrics are printed, and written with the predictions to train.output_dir, where report.html shows both.
"""

from __future__ import annotations

import argparse

from . import PROGRAM
from .arguments import add_config, add_overrides, add_processes, add_views, add_weights, overrides_with_weights, view_options
from .processes import start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_weights(parser)
    parser.add_argument("--resume", action="store_true", help="evaluate the last checkpoint in train.output_dir instead")
    add_views(parser)
    add_processes(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    return start(f"{PROGRAM} eval", args, overrides_with_weights(args), eval_only=True, views=view_options(args))
