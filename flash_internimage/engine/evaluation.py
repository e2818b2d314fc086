"""Evaluating a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn


def evaluate(
    model: nn.Module, images: Iterable[list[dict[str, Any]]], evaluators: Sequence[DatasetEvaluator]
) -> dict[str, Any]:
    """Run ``model`` on the validation images and print a table for each task.

    Args:
        images: a test loader's batches; it has a length.
        evaluators: are shown each image and what the model gives for it.

    Returns:
        Metrics by task, for instance ``{"bbox": {"AP": 48.0, …}}``; empty on all processes but the first.
    """
    results = inference_on_dataset(model, images, list(evaluators))
    if comm.is_main_process():
        print_csv_format(results)
    return results
