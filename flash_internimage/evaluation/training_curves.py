"""Losses and AP over the iterations of a run, read from its ``metrics.json``."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

METRICS_FILE = "metrics.json"
_VALIDATION = "validation/"

Curve = dict[int, float]
"""Values by iteration, in ascending order."""


@dataclass(frozen=True)
class TrainingCurves:
    """Curves of a run, by name; empty ones are left out.

    Attributes:
        training: ``total_loss`` and its parts.
        validation: the same on the validation data (``train.val_loss=true``).
        scores: AP in percent of each task, such as ``bbox/AP``.
    """

    training: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    scores: Mapping[str, Curve]

    def __bool__(self) -> bool:
        return bool(self.training or self.validation or self.scores)


def read_training_curves(file: Path) -> TrainingCurves:
    """Read the metrics of a run.

    Of iterations that a resumed run repeats, the last values count. Lines that are not metrics, such as an incomplete last line
    of a run in progress, and values that are not finite are skipped.
    """
    curves: dict[str, Curve] = defaultdict(dict)
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _add(curves, line)
    ordered = {name: dict(sorted(curve.items())) for name, curve in curves.items()}
    losses = {name: curve for name, curve in ordered.items() if _is_loss(name)}
    return TrainingCurves(
        training={name: curve for name, curve in losses.items() if not name.startswith(_VALIDATION)},
        validation={name.removeprefix(_VALIDATION): curve for name, curve in losses.items() if name.startswith(_VALIDATION)},
        scores={name: curve for name, curve in ordered.items() if name.endswith("/AP")},
    )


def find_metrics(folders: Iterable[Path]) -> Path | None:
    """The first ``metrics.json`` in one of the folders; None if there is none."""
    return next((folder / METRICS_FILE for folder in folders if (folder / METRICS_FILE).is_file()), None)


def _add(curves: dict[str, Curve], line: str) -> None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict) or not isinstance(values.get("iteration"), int):
        return
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            curves[name][values["iteration"]] = float(value)


def _is_loss(name: str) -> bool:
    return "loss" in name.removeprefix(_VALIDATION) and "/" not in name.removeprefix(_VALIDATION)
