"""Share a trained detector: upload its weights, config and model card to the Hugging Face hub, or write them to a folder.

Examples:

  show the files of an upload, without uploading them:
    flash-internimage push hf://me/my-detector --weights output/model_final.pth --dry-run

  upload them (after `hf auth login`), with the metrics and images of an evaluation:
    flash-internimage push hf://me/my-detector --weights output/model_best.pth --evaluation output/evaluation

  write them to a folder:
    flash-internimage push my-detector --weights output/model_final.pth

The weights are written as model.safetensors, the config as data and without paths, experiment trackers and credentials. The
model card has AP, class names and images with detections of the evaluation. `Predictor("hf://me/my-detector")`, or Predictor
with the folder, loads the detector again.

Another upload to the same repository replaces these files, also a model card that was edited there, and the images; the history
of the repository keeps the earlier ones.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from flash_internimage.errors import UserError

from .arguments import config_path, not_negative


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="hf://OWNER/NAME, or a new folder")
    parser.add_argument("--weights", required=True, metavar="CHECKPOINT", help="a checkpoint of a run")
    parser.add_argument(
        "--config-file", metavar="CONFIG", help="its config: a file, or a name (default: config.yaml beside the checkpoint)"
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FOLDER",
        help="output folder of its evaluation, for AP and images (default: the folder of the checkpoint, if it "
        "holds an evaluation of exactly its weights)",
    )
    parser.add_argument(
        "--images", type=not_negative, default=4, metavar="N", help="evaluated images to show with detections (4)"
    )
    parser.add_argument(
        "--license", type=license_id, metavar="ID", help="license of the weights, such as apache-2.0 (default: not stated)"
    )
    parser.add_argument("--private", action="store_true", help="create a private repository; an existing one must be private")
    parser.add_argument("--dry-run", action="store_true", help="list the files, and upload and write nothing")
    parser.add_argument("--trust-config", action="store_true", help="let a config.yaml call any function, like a .py config")


def license_id(text: str) -> str:
    """Parse the identifier of a license, in the form of the hub's; which ones there are is for the hub to say."""
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", text) is None:
        raise argparse.ArgumentTypeError(f"expected an identifier in lowercase, such as apache-2.0 or mit, got {text!r}")
    return text


def run(args: argparse.Namespace) -> int:
    from flash_internimage.checkpoint.hub import PREFIX
    from flash_internimage.engine.config import load_config
    from flash_internimage.inference.loading import load_model
    from flash_internimage.inference.shared import is_repository
    from flash_internimage.inference.sharing import evaluation_of, files_of, move_to, staging, upload, write_shared

    remote = args.target.startswith(PREFIX)
    if remote and not is_repository(args.target):
        raise UserError(f"{args.target}: expected hf://OWNER/NAME, without a file")
    beside = Path(args.weights).parent
    config = args.config_file or str(beside / "config.yaml")
    if args.config_file is None and not Path(config).is_file():
        raise UserError(f"--weights {args.weights}: there is no config.yaml beside it; name the config with --config-file")
    cfg = load_config(config_path(config), eval_only=True, trust_config=args.trust_config)
    model, classes = load_model(cfg, args.weights)  # sets the number of classes in cfg
    evaluation = args.evaluation or evaluation_of(model, beside)
    with staging() as folder:
        name = args.target.removeprefix(PREFIX) if remote else Path(args.target).name
        write_shared(cfg, model, classes, folder, name=name, evaluation=evaluation, images=args.images, license=args.license)
        for path, size in files_of(folder):
            print(f"{path:<24} {size:>14,} bytes")
        if evaluation is None:
            print(
                f"The model card has neither AP nor images: {beside} holds no evaluation of {Path(args.weights).name} "
                "(flash-internimage eval); name one with --evaluation."
            )
        if args.dry_run:
            print(f"{args.target}: nothing was uploaded or written (--dry-run)")
        elif remote:
            print(upload(folder, args.target, args.private))
        else:
            move_to(folder, Path(args.target))
            print(args.target)
    return 0
