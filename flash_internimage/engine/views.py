"""Evaluation on tiles and with test-time augmentation."""

from __future__ import annotations

from detectron2.config import LazyCall as L
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.views import ViewOptions, ViewsDetector, ViewsMapper


def set_views(cfg: DictConfig, options: ViewOptions) -> None:
    """Make the mapper of the test data yield views, in place of those that the config may have.

    The config then describes the views, and is saved with the evaluation.

    Raises:
        UserError: the test data of the config have no mapper.
    """
    if "mapper" not in cfg.dataloader.test:
        raise UserError("--tile and --tta: the config should have a dataloader.test.mapper, a TestMapper, but has none")
    mapper = cfg.dataloader.test.mapper
    cfg.dataloader.test.mapper = L(ViewsMapper)(
        mapper=mapper.mapper if has_views(cfg) else mapper, tile=options.tile, overlap=options.overlap, tta=options.tta
    )


def with_views(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The detector for the test data of a config: the model, or one that runs it on views if the mapper yields these."""
    return ViewsDetector(model) if has_views(cfg) else model


def has_views(cfg: DictConfig) -> bool:
    """Whether the mapper of a config's test data is a ``ViewsMapper``."""
    target = OmegaConf.select(cfg, "dataloader.test.mapper._target_")
    return (locate(target) if isinstance(target, str) else target) is ViewsMapper
