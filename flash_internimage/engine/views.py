"""Evaluation on tiles and with test-time augmentation."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from flash_internimage.data import TestMapper
from flash_internimage.errors import UserError
from flash_internimage.views import ViewOptions, ViewsDetector, ViewsMapper

logger = logging.getLogger(__name__)


def set_views(cfg: DictConfig, options: ViewOptions) -> None:
    """Make the mapper of the test data yield views, in place of those that the config may have.

    The config then describes the views, and is saved with the evaluation.

    Raises:
        UserError: the test data of the config have no mapper, or one of another class than ``TestMapper``.
    """
    if "mapper" not in cfg.dataloader.test:
        raise UserError("--tile and --tta: the config should have a dataloader.test.mapper, a TestMapper, but has none")
    if (mapper := _mapper_class(cfg)) not in (TestMapper, ViewsMapper):  # another one may do more than resize
        raise UserError(
            f"--tile and --tta: dataloader.test.mapper should be a TestMapper, got {getattr(mapper, '__name__', mapper)}"
        )
    cfg.dataloader.test.mapper = L(ViewsMapper)(
        augmentations=cfg.dataloader.test.mapper.augmentations, tile=options.tile, overlap=options.overlap, tta=options.tta
    )


def with_views(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The detector for the test data of a config: the model, or one that runs it on views if the mapper yields these."""
    return ViewsDetector(model) if views_of(cfg) is not None else model


def views_of(cfg: DictConfig) -> ViewOptions | None:
    """The views that the mapper of a config's test data yields; None for whole images."""
    if _mapper_class(cfg) is not ViewsMapper:
        return None
    mapper = cfg.dataloader.test.mapper
    options = ViewOptions(mapper.tile, mapper.overlap, mapper.tta)
    return None if options.is_whole_image else options


def chosen_views(cfg: DictConfig, given: ViewOptions) -> ViewOptions:
    """The views that were given, or else those of the config, which are logged: detection takes several times as long."""
    of_config = views_of(cfg)
    if not given.is_whole_image or of_config is None:
        return given
    logger.info("%s, from the config", of_config)
    return of_config


def _mapper_class(cfg: DictConfig) -> Any:
    target = OmegaConf.select(cfg, "dataloader.test.mapper._target_")
    return locate(target) if isinstance(target, str) else target
