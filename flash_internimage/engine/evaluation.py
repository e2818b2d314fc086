"""Evaluating a model as its config says."""

from __future__ import annotations

from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn


def evaluate(dataloader: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Run ``model`` on the validation images and print a table for each task.

    Args:
        dataloader: the section of a config with ``test`` and ``evaluator``.

    Returns:
        Metrics by task, for instance ``{"bbox": {"AP": 48.0, …}}``; empty on all processes but the first.
    """
    results = inference_on_dataset(model, instantiate(dataloader.test), instantiate(dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results
