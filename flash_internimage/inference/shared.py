"""A detector as a folder or a repository of the Hugging Face hub: ``config.yaml`` and ``model.safetensors``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flash_internimage.checkpoint.hub import PREFIX
from flash_internimage.path_manager import PathManager

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
CARD = "README.md"
IMAGES = "images"  # folder of visualizations

_REPOSITORY = re.compile(rf"{PREFIX}[^/]+/[^/]+")


def is_repository(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a repository of the hub, ``hf://owner/name`` or ``hf://owner/name@revision``, and no file."""
    return _REPOSITORY.fullmatch(os.fspath(path)) is not None


def is_shared(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a shared detector: a repository of the hub, or a folder with its two files."""
    return is_repository(path) or all((Path(path) / name).is_file() for name in (CONFIG, WEIGHTS))


def shared_files(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the local paths of the config and the weights of a shared detector, which are downloaded once.

    Raises:
        CheckpointError: the repository does not exist or lacks one of the files, or the hub cannot be reached.
    """
    return shared_config(path), PathManager.get_local_path(shared_weights(path))


def shared_config(path: str | os.PathLike[str]) -> str:
    """Return the local path of the config of a shared detector, which is downloaded once.

    Raises:
        CheckpointError: the repository does not exist or lacks the file, or the hub cannot be reached.
    """
    return PathManager.get_local_path(f"{os.fspath(path)}/{CONFIG}")


def shared_weights(path: str | os.PathLike[str]) -> str:
    """Return the path of the checkpoint of a shared detector: in its folder, or ``hf://owner/name/…``."""
    return f"{os.fspath(path).rstrip('/')}/{WEIGHTS}"
