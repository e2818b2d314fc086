"""The published detectors by name: their configs, checkpoints and models."""

from __future__ import annotations

import builtins
import difflib
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from torch import nn

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.errors import UserError

REPOSITORY = "hf://OpenGVLab/DCNv4"


def config_folder() -> Path:
    """Where the configs are: beside this file in an installed package, at the top of a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def list() -> builtins.list[str]:
    """Names of the published detectors."""
    return sorted(path.stem for path in (config_folder() / "coco").glob("*_coco.py"))


def config_path(name: str) -> Path:
    """The file of a config that the package carries.

    Args:
        name: one of :func:`list`, or the stem of another file in ``configs/``.

    Raises:
        UserError: there is no such config; the message names the nearest.
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
    """The path ``hf://…`` of a published detector's checkpoint; no network is used.

    Raises:
        UserError: no detector of that name was published; the message names the nearest.
    """
    if name not in list():
        near = difflib.get_close_matches(name, list(), cutoff=0.5) or list()
        raise UserError(f"model zoo: no published checkpoint for {name!r}; did you mean {' or '.join(near)}?")
    # The files write "internimage" where some of the configs write "intern_image".
    return f"{REPOSITORY}/{name.replace('intern_image', 'internimage')}.pth"


def get(name: str, trained: bool = False) -> nn.Module:
    """A detector on the CPU, to be called with detectron2's list of dicts.

    Args:
        name: as for :func:`config_path`.
        trained: load the published checkpoint, fetched on first use, and return the model in evaluation mode; otherwise
            the weights are random, and the model is in training mode.

    Raises:
        UserError: no such name.
        CheckpointError: the checkpoint cannot be fetched or read.
    """
    checkpoint = get_checkpoint(name) if trained else None
    model = instantiate(get_config(name).model)
    if checkpoint is None:
        return model
    Checkpointer(model).load_complete(checkpoint)
    return model.eval()
