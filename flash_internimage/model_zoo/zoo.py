"""Configs, checkpoints and models of the published detectors, by name."""

from __future__ import annotations

import builtins
import difflib
import warnings
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from torch import nn

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.errors import UserError
from flash_internimage.packages import ignore_script_warnings

REPOSITORY = "hf://OpenGVLab/DCNv4"


def config_folder() -> Path:
    """Return the folder of the configs: beside this file in an installed package, at the top level of a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def list() -> builtins.list[str]:
    """List the names of the published detectors."""
    return sorted(path.stem for path in (config_folder() / "coco").glob("*_coco.py"))


def config_path(name: str) -> Path:
    """Return the path of a config that the package carries.

    Args:
        name: one of :func:`list`, or the stem of another file in ``configs/``.

    Raises:
        UserError: there is no config of that name; the message suggests similar names.
    """
    paths = {path.stem: path for path in config_folder().glob("*/*.py") if path.parent.name != "common"}
    if name not in paths:
        near = difflib.get_close_matches(name, paths, cutoff=0.5) or sorted(paths)
        raise UserError(f"model zoo: no config named {name!r}; did you mean {' or '.join(near)}?")
    return paths[name]


def get_config(name: str) -> DictConfig:
    """The LazyConfig of a detector.

    Args:
        name: as for :func:`config_path`.

    Raises:
        UserError: there is no such config; the message names the nearest.
    """
    return LazyConfig.load(str(config_path(name)))


def get_checkpoint(name: str) -> str:
    """Return the ``hf://…`` path of a published detector's checkpoint, without downloading it.

    Raises:
        UserError: there is no published detector of that name; the message suggests similar names.
    """
    if name not in list():
        near = difflib.get_close_matches(name, list(), cutoff=0.5) or list()
        raise UserError(f"model zoo: no published checkpoint for {name!r}; did you mean {' or '.join(near)}?")
    # The names of the checkpoint files have "internimage" where some configs have "intern_image".
    return f"{REPOSITORY}/{name.replace('intern_image', 'internimage')}.pth"


def get(name: str, trained: bool = False) -> nn.Module:
    """Build a detector on the CPU, with detectron2's input and output formats.

    Args:
        name: as for :func:`config_path`.
        trained: whether to load the published checkpoint, downloaded on first use, and return the model in evaluation mode;
            otherwise the model has random weights and is in training mode.

    Raises:
        UserError: there is no detector of that name.
        CheckpointError: the checkpoint cannot be downloaded or read.
    """
    checkpoint = get_checkpoint(name) if trained else None
    with warnings.catch_warnings():
        ignore_script_warnings()
        model = instantiate(get_config(name).model)
    if checkpoint is None:
        return model
    Checkpointer(model).load_complete(checkpoint)
    return model.eval()
