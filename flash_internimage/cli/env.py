"""Print the versions and build flags that a bug report needs.

Example:
    flash-internimage env

It works without the compiled extension, detectron2 or a GPU, and says what is missing.
"""

from __future__ import annotations

import argparse

from flash_internimage.collect_env import collect_env, format_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: this command has no arguments."""


def run(args: argparse.Namespace) -> int:
    print(format_table(collect_env()))
    return 0
