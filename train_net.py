#!/usr/bin/env python
"""Train, resume or evaluate the detector that a config file describes; ``--help`` has examples."""

from collections.abc import Sequence

from flash_internimage.cli.arguments import parse_arguments
from flash_internimage.cli.train import start


def main(argv: Sequence[str] | None = None) -> None:
    start(parse_arguments(argv), program="train_net.py")


if __name__ == "__main__":
    main()
