"""Convert a detector's checkpoint between the names of the published checkpoints and the names of this project's models.

Examples:

  a published checkpoint:
    flash-internimage convert mask_rcnn_flash_internimage_t_fpn_1x_coco.pth mask_rcnn_t.pth

  a published checkpoint from the Hugging Face hub, as safetensors:
    flash-internimage convert hf://OpenGVLab/DCNv4/dino_4scale_flash_internimage_t_1x_coco.pth dino_t.safetensors

  a checkpoint of your own, for MMDetection:
    flash-internimage convert output/model_final.pth published.pth --to published

Training, evaluation and prediction read both kinds, so none of them needs a conversion.
"""

from __future__ import annotations

import argparse

from flash_internimage.checkpoint import convert_checkpoint
from flash_internimage.checkpoint.numpy_values import BUILDERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a .pth or .safetensors file, or hf://ORG/REPO/FILE")
    parser.add_argument("target", metavar="TARGET", help="the .pth or .safetensors file to write")
    parser.add_argument("--to", choices=["detectron2", "published"], default="detectron2", help="names to write (detectron2)")
    parser.add_argument("--force", action="store_true", help="overwrite TARGET if it exists")
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="TYPE",
        help=f"NumPy's numbers and arrays that SOURCE may contain beside tensors: {', '.join(sorted(BUILDERS))}",
    )


def run(args: argparse.Namespace) -> int:
    family = convert_checkpoint(args.source, args.target, args.to, allow=args.allow, force=args.force)
    print(f"{args.target}: {family.title}, {args.to} names")
    return 0
