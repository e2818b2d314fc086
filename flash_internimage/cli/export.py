"""Export a trained detector to a file that runs without this project, and compare the file with the model.

Examples:

  an ONNX file for onnxruntime, for images of any size:
    flash-internimage export --config-file output/config.yaml --weights output/model_final.pth --output model.onnx

  a published detector for OpenVINO, for images of at most 800 x 1344 pixels:
    flash-internimage export --config-file dino_4scale_flash_internimage_t_1x_coco --target openvino \\
        --size 800 1344 --output dino.onnx

  a program for torch.export.load, and the same compiled by AOTInductor:
    flash-internimage export --config-file output/config.yaml --weights output/model_final.pth --format pt2 --output model.pt2
    flash-internimage export --config-file output/config.yaml --weights output/model_final.pth --format pt2 --aot \\
        --output compiled.pt2

The file takes pixels and returns boxes, scores, classes, counts and mask probabilities; class names, image sizes and the
checkpoint's hash are in its metadata. `predict`, `eval` and Predictor take it in place of a checkpoint.

The detections of the file are compared with those of the model, at two sizes and the smallest one. If they differ there is no
file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flash_internimage.plurals import counted

from .arguments import add_config, add_overrides, add_weights, config_path, overrides_with_weights, positive
from .errors import UsageError

_SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_weights(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .onnx or .pt2 file to write")
    parser.add_argument("--format", choices=_SUFFIXES, help="format of the file (default: what the suffix of FILE says)")
    parser.add_argument("--aot", action="store_true", help="compile a .pt2 file with AOTInductor, for this kind of CPU or GPU")
    parser.add_argument(
        "--target",
        choices=["onnxruntime", "openvino", "tensorrt"],
        default="onnxruntime",
        help="runtime for which an ONNX file is written: which operators it has, and computes correctly (onnxruntime)",
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--dynamic", action="store_true", help="any image size in multiples of the stride (the default)")
    sizes.add_argument("--size", nargs=2, type=positive, metavar=("HEIGHT", "WIDTH"), help="one image size, in pixels")
    parser.add_argument("--batch", type=positive, default=1, metavar="N", help="number of images (1)")
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16"],
        default="fp32",
        help="of linear layers and convolutions; all else, and inputs and outputs, stay in float32 (fp32)",
    )
    parser.add_argument("--max-detections", type=positive, metavar="N", help="detections per image (default: the model's own)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    format_ = args.format or args.output.suffix[1:]
    if _SUFFIXES.get(format_) != args.output.suffix:
        raise UsageError(f"--output {args.output}: expected a name that ends in .onnx or .pt2, as --format says")
    if args.aot and format_ != "pt2":
        raise UsageError("--aot: AOTInductor writes .pt2 files; leave it out, or use --format pt2")

    from flash_internimage.engine.config import load_config
    from flash_internimage.inference.exporting import export

    cfg = load_config(
        config_path(args.config_file), overrides_with_weights(args), eval_only=True, trust_config=args.trust_config
    )
    metadata = export(
        cfg,
        None,
        args.output,
        format="aot" if args.aot else format_,
        target=args.target,
        size=None if args.size is None else tuple(args.size),
        batch=args.batch,
        precision=args.precision,
        max_detections=args.max_detections,
        report=lambda line: print(line, flush=True),
    )
    size = "any size" if metadata.height is None else f"{metadata.height} x {metadata.width} pixels"
    megabytes = args.output.stat().st_size / 1e6
    classes = counted(metadata.class_names, "class", "classes")
    print(f"{args.output}: {metadata.family}, {classes}, {size}, {megabytes:.1f} MB")
    return 0
