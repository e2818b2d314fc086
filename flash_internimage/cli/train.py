"""Train the detector that a config describes, or resume its training.

Examples:

  a small model on the generated shapes dataset, on a CPU or one GPU:
    flash-internimage train --config-file mask_rcnn_flash_internimage_nano

  the published recipe on eight GPUs, with mixed precision:
    flash-internimage train --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco --num-gpus 8 \\
        train.amp.enabled=true

  your own dataset, in COCO format:
    flash-internimage train --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco \\
        data.train.json=train.json data.train.images=train data.test.json=val.json data.test.images=val

  your own dataset, in YOLO format, or a folder that an annotation tool has exported (COCO, YOLO, Pascal VOC):
    flash-internimage train --config-file dino_4scale_flash_internimage_t_1x_coco data.train.yolo=data.yaml
    flash-internimage train --config-file dino_4scale_flash_internimage_t_1x_coco data.root=export

  resume a run from its last checkpoint:
    flash-internimage train --config-file output/config.yaml --resume

  start the processes with torchrun (or, in a SLURM job, with srun):
    torchrun --nproc_per_node 8 -m flash_internimage train --config-file mask_rcnn_flash_intern_image_t_fpn_1x_coco

Checkpoints, logs and the config are written to train.output_dir (./output). If that holds the checkpoints of another run,
choose another folder, --resume or --overwrite. SIGTERM, SIGUSR1 and Ctrl-C stop the run with a checkpoint (exit code 75;
Ctrl-C: 130).
"""

from __future__ import annotations

import argparse

from . import PROGRAM
from .arguments import add_config, add_overrides, add_overwrite, add_processes
from .processes import start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    add_overwrite(parser)
    add_processes(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    return start(f"{PROGRAM} train", args, args.overrides, eval_only=False)
