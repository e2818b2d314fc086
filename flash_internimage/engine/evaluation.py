"""Evaluation of a model on a test loader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn


def evaluate(
    model: nn.Module, images: Iterable[list[dict[str, Any]]], evaluators: Sequence[DatasetEvaluator]
) -> dict[str, Any]:
    """Run a model on the test images and log its metrics for each task.

    Args:
        images: batches of a test loader, with a length.
        evaluators: evaluators that process each batch and the model's outputs for it.

    Returns:
        Metrics by task, for example ``{"bbox": {"AP": 48.0, …}}``; empty except on the main process.
    """
    results = inference_on_dataset(model, images, list(evaluators))
    if comm.is_main_process():
        print_csv_format(results)
    return results
