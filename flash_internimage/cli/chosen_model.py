"""The model that ``--config-file``, ``--weights`` and overrides choose, for the commands that detect objects."""

from __future__ import annotations

import argparse

from omegaconf import DictConfig

from flash_internimage.engine.config import load_config
from flash_internimage.export.runtime import is_exported

from .arguments import config_path, overrides_with_weights
from .errors import UsageError


def chosen_model(args: argparse.Namespace) -> DictConfig | str:
    """Return the first argument of ``Predictor``: a config that names its checkpoint, or the path of an exported file.

    Raises:
        UsageError: there is no config, and the weights are not an exported file.
    """
    if args.config_file is not None:
        return load_config(
            config_path(args.config_file), overrides_with_weights(args), eval_only=True, trust_config=args.trust_config
        )
    if args.weights is not None and is_exported(args.weights) and not args.overrides:
        return str(args.weights)
    raise UsageError("--config-file: needed, except with an exported file as --weights and without overrides")
