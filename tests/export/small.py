"""Small detectors of each family with random weights that give many detections, and batches for them."""

from __future__ import annotations

import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from flash_internimage import model_zoo

FAMILIES = ["mask_rcnn", "cascade", "retinanet", "dino"]
# Layers whose initial weights would give boxes near the anchors, equal scores and regular sampling points, and the spread of
# their outputs for inputs with a spread of 1.
_DRAWN = {
    "cls_score": 2.4,
    "class_heads": 2.4,
    "bbox_pred": 0.4,
    "box_heads": 0.4,
    "anchor_deltas": 0.4,
    "objectness_logits": 0.4,
    "offset_mask": 0.2,
    "sampling_offsets": 0.3,
}


def build(family: str) -> nn.Module:
    """A smaller detector of the shapes dataset, in evaluation mode."""
    config = model_zoo.get_config(f"{family}_flash_internimage_nano").model
    backbone = config.backbone if family == "dino" else config.backbone.bottom_up
    backbone.update(channels=16, depths=[1, 1, 1, 1], groups=[1, 2, 4, 8])
    for head in config.get("roi_heads", {}).get("box_heads", []):
        head.update(conv_dims=[16], fc_dims=[64])
    for head in config.get("roi_heads", {}).get("mask_heads", []):
        head.conv_dims = [16, 16]
    if family == "dino":
        config.transformer.encoder.num_layers = 1
        config.transformer.decoder.num_layers = 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = instantiate(config).eval()
        spread(model)
    return model


def spread(model: nn.Module) -> None:
    """Replace the initial weights with which a model would detect nothing, or the same everywhere, by random ones."""
    for name, parameter in model.named_parameters():
        layer = next((layer for layer in _DRAWN if layer in name), None)
        if layer is not None and name.endswith("weight"):
            nn.init.normal_(parameter, std=_DRAWN[layer] / parameter[0].numel() ** 0.5)
        elif layer in ("cls_score", "class_heads"):
            nn.init.zeros_(parameter)


def draw(sizes: list[tuple[int, int]], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Images of the given sizes in a batch of ``height`` x ``width``, with noise beyond their sizes."""
    generator = torch.Generator().manual_seed(height * width)
    images = torch.randint(0, 256, (len(sizes), 3, height, width), generator=generator, dtype=torch.uint8)
    return images, torch.tensor(sizes)
