"""A small DINO that runs in milliseconds, and batches for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from flash_internimage.projects.dino import DINO

CONFIG = Path(__file__).parents[3] / "configs" / "common" / "models" / "dino.py"
NUM_CLASSES = 4
NUM_QUERIES = 12


def small_config() -> Any:
    """The config of the detector with small numbers of channels, layers and queries."""
    model = LazyConfig.load(str(CONFIG)).model
    model.backbone.update(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8], drop_path_rate=0.0, with_cp=False)
    model.neck.norm_groups = 4
    model.transformer.embed_dim = 32
    model.transformer.encoder.num_layers = 2
    model.transformer.decoder.update(num_layers=3, num_heads=4, num_points=2, ffn_dim=48)
    model.transformer.query_selection.num_queries = NUM_QUERIES
    model.denoising.num_queries = 6
    model.num_classes = NUM_CLASSES
    model.detections_per_image = 20
    return model


def small_dino() -> DINO:
    return perturbed(instantiate(small_config()))


def perturbed(model: nn.Module) -> nn.Module:
    """Add noise to all weights, because weights that are initialized with zeros would hide the layers before them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


def image(height: int, width: int, boxes: list[list[float]] | None = None, labels: list[int] | None = None) -> dict[str, Any]:
    """One input of a batch, with annotations if ``boxes`` (XYXY, pixels) are given."""
    entry: dict[str, Any] = {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8)}
    if boxes is not None:
        entry["instances"] = Instances((height, width))
        entry["instances"].gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
        labels = [i % NUM_CLASSES for i in range(len(boxes))] if labels is None else labels
        entry["instances"].gt_classes = torch.tensor(labels, dtype=torch.int64)
    return entry


def total(losses: dict[str, Tensor]) -> Tensor:
    return sum(losses.values())
