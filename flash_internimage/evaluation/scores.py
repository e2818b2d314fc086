"""The figures of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""COCO's figures: the mean over IoU 0.5 to 0.95; at 0.5; at 0.75; of objects below 32² pixels, to 96², and above."""

TASK_NAMES = {"bbox": "box", "segm": "mask"}


@dataclass(frozen=True)
class Scores:
    """COCO's figures for one task, in percent. What has no ground truth is NaN.

    Attributes:
        metrics: AP, AP50, AP75, APs, APm and APl.
        by_category: the same of each category id.
        precision: (10, 101, K) in percent, for IoU 0.5, 0.55, …, 0.95, recall 0, 0.01, …, 1, and each category, objects of
            all sizes together.
    """

    metrics: dict[str, float]
    by_category: dict[int, dict[str, float]]
    precision: np.ndarray
