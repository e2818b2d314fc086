"""Evaluation on tiles and with test-time augmentation."""

from __future__ import annotations

from detectron2.config import LazyCall as L
from omegaconf import DictConfig
from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.views import ViewOptions, ViewsDetector, ViewsMapper


def use_views(cfg: DictConfig, model: nn.Module, options: ViewOptions | None) -> nn.Module:
    """Make the mapper of the test data yield views, and return the detector for them; None: return the model.

    The config then describes the views, and is saved with the evaluation.

    Raises:
        UserError: the test data of the config have no mapper.
    """
    if options is None or options.is_whole_image:
        return model
    if "mapper" not in cfg.dataloader.test:
        raise UserError("--tile and --tta: the config should have a dataloader.test.mapper, a TestMapper, but has none")
    cfg.dataloader.test.mapper = L(ViewsMapper)(
        mapper=cfg.dataloader.test.mapper, tile=options.tile, overlap=options.overlap, tta=options.tta
    )
    return ViewsDetector(model)
