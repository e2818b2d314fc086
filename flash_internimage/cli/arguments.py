"""Arguments that several commands share; each is named, described and checked here once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from flash_internimage import model_zoo

from .errors import UsageError

if TYPE_CHECKING:
    from flash_internimage.views import ViewOptions

_CONFIG = (
    "a LazyConfig file (.py), the config.yaml of a run, the name of a config in the package, or a shared detector "
    "(hf://OWNER/NAME, or a folder that push wrote)"
)


def add_config(parser: argparse.ArgumentParser, *, several: bool = False, unless: str = "") -> None:
    """Add ``--config-file``, whose value :func:`config_path` turns into the path of a file, and ``--trust-config``.

    Args:
        unless: condition under which it is optional, for the help; empty: always required.
    """
    count = {"nargs": "+"} if several else {}
    text = f"{_CONFIG}; not needed {unless}" if unless else _CONFIG
    parser.add_argument("--config-file", required=not unless, metavar="CONFIG", help=text, **count)
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let a config.yaml call any function, like a .py config; needed for parts of your own packages",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``key=value`` overrides of the config, which may stand before, between and after the flags."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values, for instance train.max_iter=1000")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights``, the checkpoint to load; :func:`overrides_with_weights` turns it into an override."""
    parser.add_argument(
        "--weights",
        metavar="CHECKPOINT",
        help="a file (eval, predict: also an exported one), hf://ORG/REPO/FILE or https://... (default: "
        "train.init_checkpoint; with a published or shared detector as CONFIG, its own)",
    )


def add_output(parser: argparse.ArgumentParser, contents: str, *, required: bool = False) -> None:
    """Add ``--output``, a folder, which the command creates if necessary."""
    parser.add_argument("--output", required=required, type=Path, metavar="FOLDER", help=f"folder for {contents}")


def add_threshold(parser: argparse.ArgumentParser, effect: str) -> None:
    """Add ``--threshold``, a score from 0 to 1."""
    parser.add_argument("--threshold", type=score, default=0.5, metavar="SCORE", help=f"lowest score that is {effect} (0.5)")


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` and ``--images``, a dataset in COCO format."""
    parser.add_argument("--json", metavar="FILE", help="annotation file in COCO format")
    parser.add_argument("--images", metavar="FOLDER", help="folder of its images")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite``, for a new run in the folder of another one."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start a new run even if train.output_dir holds another one, and delete that one's checkpoints and metrics",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add detectron2's flags for several processes; under torchrun, under SLURM and on a CPU none is needed."""
    parser.add_argument(
        "--num-gpus",
        type=process_count,
        metavar="N",
        help="processes on this machine, one per GPU (default: 1, or what torchrun or srun say)",
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines in the run (default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="number of this machine (default: 0)")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="where processes meet, tcp://HOST:PORT (default: a free local port)"
    )


def add_views(parser: argparse.ArgumentParser) -> None:
    """Add ``--tile``, ``--overlap`` and ``--tta``, which :func:`view_options` reads."""
    parser.add_argument(
        "--tile",
        type=positive,
        metavar="PIXELS",
        help="detect in square tiles of this side, too, for small objects in large images",
    )
    parser.add_argument(
        "--overlap",
        type=fraction,
        metavar="FRACTION",
        help="smallest overlap of neighboring tiles, as a fraction of their side (0.2)",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: detect at three scales and in flipped images, six times the work",
    )


def view_options(args: argparse.Namespace) -> ViewOptions:
    """Return the views that the arguments of :func:`add_views` select.

    Raises:
        UsageError: ``--overlap`` without ``--tile``.
    """
    from flash_internimage.views import ViewOptions  # here, so that `flash-internimage --help` does not wait for torch

    if args.overlap is None:
        return ViewOptions(tile=args.tile, tta=args.tta)
    if args.tile is None:
        raise UsageError("--overlap needs --tile")
    return ViewOptions(tile=args.tile, overlap=args.overlap, tta=args.tta)


def config_path(text: str) -> str:
    """Return the path of the config that ``--config-file`` names: a file, a name in the package, or a shared detector.

    Raises:
        UserError: the package has no config of that name.
        CheckpointError: the hub has no such detector, or cannot be reached.
    """
    if _is_shared(text):
        from flash_internimage.inference.shared import shared_config

        return shared_config(text)
    return str(model_zoo.config_path(text)) if re.fullmatch(r"\w+", text) else text


def overrides_with_weights(args: argparse.Namespace) -> list[str]:
    """Return the overrides, with ``train.init_checkpoint`` set by ``--weights`` or by a published or shared detector.

    ``--weights`` takes precedence over an override, an override over the weights of the detector.
    """
    if args.weights is not None:
        return [*args.overrides, f"train.init_checkpoint={args.weights}"]
    if args.config_file in model_zoo.list():
        return [f"train.init_checkpoint={model_zoo.get_checkpoint(args.config_file)}", *args.overrides]
    if args.config_file is not None and _is_shared(args.config_file):
        from flash_internimage.inference.shared import shared_weights

        return [f"train.init_checkpoint={shared_weights(args.config_file)}", *args.overrides]
    return args.overrides


def _is_shared(text: str) -> bool:
    # Imported only where it may be one: importing torch takes seconds.
    if not text.startswith("hf://") and not Path(text).is_dir():
        return False
    from flash_internimage.inference.shared import is_shared

    return is_shared(text)


def score(text: str) -> float:
    """Parse a score."""
    if not 0 <= _number(text, float) <= 1:
        raise argparse.ArgumentTypeError(f"expected a score from 0 to 1, got {text}")
    return float(text)


def fraction(text: str) -> float:
    """Parse a number from 0 to below 1."""
    if not 0 <= _number(text, float) < 1:
        raise argparse.ArgumentTypeError(f"expected a fraction from 0 to below 1, got {text}")
    return float(text)


def positive(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if _number(text, int) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)


def not_negative(text: str) -> int:
    """Parse a whole number of 0 or more."""
    if _number(text, int) < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return int(text)


def process_count(text: str) -> int:
    """Parse a number of processes."""
    if _number(text, int) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}; without a GPU the one process runs on the CPU")
    return int(text)


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a {'whole ' if kind is int else ''}number, got {text!r}") from None
