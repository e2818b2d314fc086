"""Loading for prediction and export: the detector of a config and a checkpoint, its class names and its image sizes."""

from __future__ import annotations

import copy
import os
from pathlib import Path

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from torch import nn

from flash_internimage import model_zoo
from flash_internimage.checkpoint import Checkpointer, class_names_of, read_checkpoint
from flash_internimage.data import TestMapper, literal_num_classes
from flash_internimage.engine.config import load_config
from flash_internimage.errors import UserError
from flash_internimage.path_manager import PathManager
from flash_internimage.solver.ema import ema_of_run

from .shared import is_shared, shared_files


def load_model(cfg: DictConfig, checkpoint: str) -> tuple[nn.Module, list[str]]:
    """Build the detector of a config and load its weights; the averaged ones if ``train.ema.enabled`` is set.

    With a custom dataset, a run sets the number of classes when it starts, and the config file keeps another. If the checkpoint
    has class names, the number of classes in ``cfg`` and in the model is therefore set to theirs.

    Returns:
        The detector in evaluation mode, on the CPU, and its class names. If the checkpoint has none they are COCO's if there
        are as many classes, otherwise "class 0", "class 1", ….
    """
    names = _class_names(checkpoint)
    nodes = list(literal_num_classes(cfg.model))
    if names is not None:
        for node in nodes:
            node.num_classes = len(names)
    model: nn.Module = instantiate(cfg.model)
    state = Checkpointer(model).load_complete(checkpoint)
    average = ema_of_run(cfg.train.ema, model, state) if "ema" in state else None
    return (model if average is None else average.module).eval(), names or _default_names(
        next((n.num_classes for n in nodes), 0)
    )


def config_and_checkpoint(
    config: str | os.PathLike[str] | DictConfig, checkpoint: str | os.PathLike[str] | None, trust_config: bool = False
) -> tuple[DictConfig, str]:
    """Load a config, and choose its checkpoint, as :class:`Predictor` does."""
    if not isinstance(config, DictConfig) and is_shared(config):
        config, weights = shared_files(config)
        checkpoint = weights if checkpoint is None else checkpoint
    cfg = _load(config, trust_config)
    if checkpoint is None:
        named = not isinstance(config, DictConfig) and str(config) in model_zoo.list()
        checkpoint = model_zoo.get_checkpoint(str(config)) if named else cfg.train.init_checkpoint
    return cfg, os.fspath(checkpoint)


def mapper_of_config(cfg: DictConfig) -> TestMapper:
    """The mapper of a config's test images.

    Raises:
        UserError: the mapper is not a ``TestMapper``.
    """
    mapper = instantiate(cfg.dataloader.test.mapper)
    if not isinstance(mapper, TestMapper):
        raise UserError(
            f"Predictor: dataloader.test.mapper should be a TestMapper, which can resize an image without a file, got "
            f"{type(mapper).__name__}"
        )
    return mapper


def _load(config: str | os.PathLike[str] | DictConfig, trust_config: bool) -> DictConfig:
    if isinstance(config, DictConfig):
        return copy.deepcopy(config)
    if Path(config).suffix in (".py", ".yaml", ".yml"):
        return load_config(os.fspath(config), eval_only=True, trust_config=trust_config)
    return model_zoo.get_config(os.fspath(config))


def _class_names(checkpoint: str) -> list[str] | None:
    """The class names in a checkpoint; None if it has none."""
    if not checkpoint:
        return None  # Checkpointer raises the error
    return class_names_of(read_checkpoint(PathManager.get_local_path(checkpoint)))


def _default_names(number: int) -> list[str]:
    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    return list(coco) if number == len(coco) else [f"class {i}" for i in range(number)]
