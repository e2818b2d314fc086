"""Metrics of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's metrics: mean over IoU 0.5 to 0.95; at IoU 0.5; at 0.75; for objects below 32² pixels, up to 96², and above."""

TASK_NAMES = {"bbox": "box", "segm": "mask"}


@dataclass(frozen=True)
class Scores:
    """COCO's metrics for one task, in percent; NaN without ground truth.

    Attributes:
        metrics: AP, AP50, AP75, APs, APm and APl.
        by_category: the same metrics for each category id.
        precision: (10, 101, K) precision in percent at IoU 0.5, 0.55, …, 0.95 and recall 0, 0.01, …, 1, for each category and
            objects of all sizes.
    """

    metrics: dict[str, float]
    by_category: dict[int, dict[str, float]]
    precision: np.ndarray
