"""The program ``flash-internimage``: one command per task, each in a module of this package.

A command's module has a docstring, which is its ``--help`` text, and two functions: ``add_arguments(parser)`` and
``run(args)``, which returns the exit code.

Exit codes: 0 for success; 1 for a mistake of the user's (one line on stderr), for data that is not sound or for files that were
skipped; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from flash_internimage import __version__

from .errors import PROGRAM, reported

COMMANDS = {
    "train": "train a detector, or resume its training",
    "eval": "evaluate a checkpoint: COCO metrics and a report",
    "predict": "detect objects in images and videos",
    "check-data": "find mistakes in a dataset in COCO format",
    "show-batch": "draw the first training batch, after augmentation",
    "analyze": "count parameters and GFLOPs of detectors; measure speed and memory",
    "report": "write the web page that shows an evaluation",
    "compare": "compare the metrics of two evaluations",
    "convert": "convert a checkpoint between published and detectron2 names",
    "draw": "draw the detections of an evaluation beside the ground truth",
    "env": "print versions and build flags, for a bug report",
}
"""Each command with a description of one line. Only the module of the command that is called is imported: most import torch."""


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
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train, evaluate and use FlashInternImage detectors.",
        epilog=f"'{PROGRAM} COMMAND --help' describes a command, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, description in COMMANDS.items():
        commands.add_parser(name, help=description, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the command and its arguments; None: those of this process.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = program_parser().parse_args(argv[:1]).command
    args = command_parser(command).parse_intermixed_args(argv[1:])
    with reported(f"{PROGRAM} {command}"):
        return command_module(command).run(args)
