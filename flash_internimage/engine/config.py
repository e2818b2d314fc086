"""Reading a LazyConfig file, with errors that say which file and which line."""

from __future__ import annotations

import builtins
import difflib
import traceback
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import LazyConfig
from omegaconf import DictConfig

from flash_internimage.errors import UserError

from .overrides import apply_overrides

_NEEDED = ("model", "dataloader", "train")
_NEEDED_TO_TRAIN = ("optimizer", "lr_multiplier")
_CONFIG_PACKAGE = "detectron2._cfg_loader"


def load_config(path: str, overrides: Sequence[str] = (), eval_only: bool = False) -> DictConfig:
    """Read a ``.py`` config, or a ``.yaml`` that a run saved, and apply ``key=value`` overrides.

    Raises:
        UserError: there is no such file (the message names the nearest), it cannot be executed, lacks a section that a run
            needs, or an override is wrong.
    """
    check_is_file(path)
    cfg = _execute(path)
    needed = _NEEDED if eval_only else _NEEDED + _NEEDED_TO_TRAIN
    missing = [key for key in needed if key not in cfg]
    if missing:
        raise UserError(f"config {path}: it defines no {', no '.join(missing)}; is it a part of a config?")
    apply_overrides(cfg, overrides)
    return cfg


def check_is_file(path: str) -> None:
    """Raise an error that names what may have been meant.

    Raises:
        UserError: there is no such file, or it is neither ``.py`` nor ``.yaml``.
    """
    file = Path(path)
    if not file.is_file():
        near = near_files(file)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"config {path or '(none given)'}: no such file{hint}")
    if file.suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"config {path}: expected a .py or .yaml file")


def near_files(file: Path) -> list[str]:
    """Up to three config files with names like that of ``file``, or that contain it.

    They lie in its folder, or else under the nearest that exists.
    """
    folder = file.parent
    if not folder.is_dir():
        folder = next((parent for parent in folder.parents if parent.is_dir()), Path("."))
        folder = folder / "configs" if (folder / "configs").is_dir() else folder
    found = [candidate for pattern in ("*.py", "*.yaml", "*/*.py", "*/*.yaml") for candidate in folder.glob(pattern)]
    by_stem: dict[str, str] = {}
    for candidate in found:
        by_stem.setdefault(candidate.stem, str(candidate))
    # A short name is not close to a long one, but may be a part of it.
    near = difflib.get_close_matches(file.stem, by_stem, n=3) or sorted(stem for stem in by_stem if file.stem in stem)[:3]
    return [by_stem[stem] for stem in near]


def _execute(path: str) -> DictConfig:
    original_import = builtins.__import__  # detectron2 replaces it, and leaves it replaced when the config fails
    try:
        return LazyConfig.load(path)
    except Exception as error:
        raise UserError(f"config {_place(path, error)}: {_cause(error)}") from error
    finally:
        builtins.__import__ = original_import


def _place(path: str, error: Exception) -> str:
    """``file:line`` of the innermost config file that was being executed."""
    syntax_error = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
    if isinstance(syntax_error, SyntaxError):  # detectron2 names the file, and chains the error that knows the line
        named = str(error).removeprefix("Config file ").removesuffix(" has syntax error!")
        return f"{named if named != str(error) else path}:{syntax_error.lineno}"
    place = path
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__package__") or "").startswith(_CONFIG_PACKAGE):
            place = f"{frame.f_code.co_filename}:{line}"
    return place


def _cause(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
    text = cause.msg if isinstance(cause, SyntaxError) else str(cause)
    return f"{type(cause).__name__}: {' '.join(text.split())}"
