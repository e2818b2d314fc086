"""The program ``flash-internimage``: one command per task, each in its own module of this package.

The docstring of a command's module is its ``--help`` text. The module has two functions: ``add_arguments(parser)``, and
``run(args)``, which returns the exit code.

Exit codes are 0 for success; 1 for an error that the user can fix (one line on stderr), for an invalid dataset and for a
skipped source; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from flash_internimage import __version__

from . import PROGRAM
from .errors import reported
from .terminal import escape_unprintable

COMMANDS = {
    "train": "train a detector, or resume its training",
    "eval": "evaluate a checkpoint: COCO metrics and a report",
    "predict": "detect objects in images and videos",
    "app": "serve a web page on which a detector is tried",
    "export": "export a detector to ONNX, torch.export or AOTInductor",
    "check-data": "find mistakes in a dataset in COCO format",
    "show-batch": "draw the first training batch, after augmentation",
    "analyze": "count parameters and GFLOPs of detectors; measure speed and memory",
    "report": "write the web page that shows an evaluation",
    "compare": "compare the metrics of two evaluations",
    "convert": "convert a checkpoint between published and detectron2 names",
    "convert-results": "convert detections for CVAT, Label Studio, YOLO or Pascal VOC",
    "push": "share a detector on the Hugging Face hub, or as a folder",
    "draw": "draw the detections of an evaluation beside the ground truth",
    "env": "print versions and build flags, for a bug report",
}
"""One-line description of each command. Only the module of the called command is imported, since most import torch."""

_EXAMPLES = f"""
examples:
  {PROGRAM} train --config-file mask_rcnn_flash_internimage_nano
  {PROGRAM} eval --config-file mask_rcnn_flash_internimage_nano --weights output/model_final.pth
  {PROGRAM} predict --help    # the arguments of a command, with more examples
"""


def command_module(command: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(f"flash_internimage.cli.{command.replace('-', '_')}")


def command_parser(command: str) -> argparse.ArgumentParser:
    """Build the parser of one command's arguments.

    Parse with ``parse_intermixed_args``, so that flags may follow positional arguments.
    """
    module = command_module(command)
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {command}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return parser


def program_parser() -> argparse.ArgumentParser:
    """Build the parser of the program's first argument, the command."""
    commands = "\n".join(f"  {name:<16} {description}" for name, description in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        description=f"Train, evaluate and use FlashInternImage detectors.\n\ncommands:\n{commands}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the command and its arguments; None: those of this process.
    """
    escape_unprintable()
    argv = sys.argv[1:] if argv is None else argv
    command = program_parser().parse_args(argv[:1]).command
    with reported(f"{PROGRAM} {command}"):
        args = command_parser(command).parse_intermixed_args(argv[1:])
        return command_module(command).run(args)
