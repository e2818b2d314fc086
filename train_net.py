#!/usr/bin/env python
"""Train, resume or evaluate the detector that a config file describes, with detectron2's flags.

Examples:

  a small model on the generated shapes dataset, on a CPU or one GPU:
    python train_net.py --config-file configs/shapes/mask_rcnn_flash_internimage_nano.py

  the published recipe on eight GPUs, with mixed precision:
    python train_net.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py --num-gpus 8 \\
        train.amp.enabled=true

  the same with torchrun (or, in a SLURM job, with srun):
    torchrun --nproc_per_node 8 train_net.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py

  your own dataset, in COCO format:
    python train_net.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py \\
        data.train.json=train.json data.train.images=train data.test.json=val.json data.test.images=val

  evaluate a checkpoint:
    python train_net.py --eval-only --config-file configs/shapes/mask_rcnn_flash_internimage_nano.py \\
        train.init_checkpoint=output/model_final.pth

It is the same program as `flash-internimage train` and `flash-internimage eval`.
"""

import argparse
import sys
from collections.abc import Sequence

from flash_internimage.cli.arguments import add_config, add_overrides, add_overwrite, add_processes
from flash_internimage.cli.processes import start


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    add_overwrite(parser)
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    add_processes(parser)
    add_overrides(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_intermixed_args(argv)
    return start("train_net.py", args, args.overrides, eval_only=args.eval_only)


if __name__ == "__main__":
    sys.exit(main())
