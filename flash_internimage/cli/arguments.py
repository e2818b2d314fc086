"""The command line of ``train_net.py``: detectron2's flags, then ``key=value`` overrides, in any order."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

_EXAMPLES = """
examples:
  train a small model on drawn shapes, on a CPU or one GPU:
    python train_net.py --config-file configs/shapes/mask_rcnn_flash_internimage_nano.py

  the published recipe on eight GPUs, with mixed precision:
    python train_net.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py --num-gpus 8 \\
        train.amp.enabled=true

  the same by torchrun, or by SLURM's srun:
    torchrun --nproc_per_node 8 train_net.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py

  data of your own, in COCO format:
    python train_net.py --config-file configs/coco/mask_rcnn_flash_intern_image_t_fpn_1x_coco.py \\
        data.train.json=train.json data.train.images=train data.test.json=val.json data.test.images=val

  evaluate a checkpoint:
    python train_net.py --eval-only --config-file configs/shapes/mask_rcnn_flash_internimage_nano.py \\
        train.init_checkpoint=output/model_final.pth
"""


def argument_parser() -> argparse.ArgumentParser:
    """detectron2's flags, except that nothing needs to be said under torchrun, under SLURM, or on a CPU."""
    parser = argparse.ArgumentParser(
        description="Train, resume or evaluate the detector that a config file describes.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="LazyConfig file (.py), or the .yaml of a run")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    parser.add_argument(
        "--num-gpus", type=int, metavar="N", help="processes on this machine, one a GPU (default 1, or as torchrun or srun say)"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines in the run (default 1)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="number of this machine (default 0)")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="where processes meet, tcp://HOST:PORT (default: a free local port)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values, for instance train.max_iter=1000")
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; flags may follow overrides."""
    parser = argument_parser()
    args = parser.parse_intermixed_args(argv)
    if args.num_gpus is not None and args.num_gpus < 1:
        parser.error(f"--num-gpus {args.num_gpus}: expected 1 or more; without a GPU the one process runs on the CPU")
    return args
