#!/usr/bin/env python
"""Convert a detector's checkpoint between the published names and this project's.

    python tools/convert_checkpoint.py mask_rcnn_flash_internimage_t_fpn_1x_coco.pth mask_rcnn_t.pth
    python tools/convert_checkpoint.py hf://OpenGVLab/DCNv4/dino_4scale_flash_internimage_t_1x_coco.pth dino_t.safetensors
    python tools/convert_checkpoint.py output/model_final.pth published.pth --to published

`train_net.py` and `model_zoo` read both kinds, so training and evaluation need no conversion.
"""

import argparse
import sys

from flash_internimage.checkpoint import CheckpointError, convert_checkpoint
from flash_internimage.checkpoint.reading import HARMLESS_TYPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a .pth or .safetensors file, or hf://org/repo/file")
    parser.add_argument("output", help="the .pth or .safetensors file to write")
    parser.add_argument("--to", choices=["detectron2", "published"], default="detectron2", help="whose names to write")
    parser.add_argument("--force", action="store_true", help="overwrite the output if it exists")
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="TYPE",
        help=f"harmless types that the input may hold beside tensors: {', '.join(sorted(HARMLESS_TYPES))}",
    )
    arguments = parser.parse_args()
    try:
        family = convert_checkpoint(
            arguments.input, arguments.output, arguments.to, allow=arguments.allow, force=arguments.force
        )
    except (CheckpointError, OSError) as error:
        sys.exit(f"convert_checkpoint: {error}")
    print(f"{arguments.output}: {family.title}, {arguments.to} names")


if __name__ == "__main__":
    main()
