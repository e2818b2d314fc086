"""The predictor that ``--config-file``, ``--weights`` and overrides choose, for the commands that detect objects."""

from __future__ import annotations

import argparse

from flash_internimage.engine.config import load_config
from flash_internimage.export.runtime import is_exported
from flash_internimage.inference import Predictor

from .arguments import config_path, overrides_with_weights
from .errors import UsageError


def chosen_predictor(args: argparse.Namespace, min_score: float) -> Predictor:
    """Load a detector for prediction, or an exported file.

    Args:
        min_score: score threshold of detections.

    Raises:
        UsageError: there is no config, and the weights are not an exported file.
    """
    if args.config_file is not None:
        cfg = load_config(
            config_path(args.config_file), overrides_with_weights(args), eval_only=True, trust_config=args.trust_config
        )
        return Predictor(cfg, min_score=min_score)
    if args.weights is not None and is_exported(args.weights) and not args.overrides:
        return Predictor(args.weights, min_score=min_score)
    raise UsageError("--config-file: needed, except with an exported file as --weights and without overrides")
