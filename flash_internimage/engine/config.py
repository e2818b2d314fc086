"""Loading and saving of LazyConfig files, with error messages that name the file and the line."""

from __future__ import annotations

import builtins
import contextlib
import difflib
import io
import math
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from detectron2.config import LazyConfig, lazy
from omegaconf import DictConfig, OmegaConf

from flash_internimage.errors import UserError
from flash_internimage.files import write_atomically
from flash_internimage.path_manager import PathManager

from .overrides import apply_overrides
from .saved_config import load_saved_config

_NEEDED = ("model", "dataloader", "train")
_NEEDED_TO_TRAIN = ("optimizer", "lr_multiplier")
_LEAST = {
    "train.max_iter": 1,
    "train.accumulation_steps": 1,
    "train.log_period": 1,
    "train.eval_period": 0,
    "train.validation_pictures": 0,
    "dataloader.train.num_workers": 0,
    "dataloader.test.num_workers": 0,
}
"""Lowest values of numbers in a config."""
_CONFIG_PACKAGE = "detectron2._cfg_loader"


def load_config(path: str, overrides: Sequence[str] = (), eval_only: bool = False, *, trust_config: bool = False) -> DictConfig:
    """Load a ``.py`` config, or the ``.yaml`` config saved by a run, and apply ``key=value`` overrides.

    A ``.py`` config is a program, which is run. A ``.yaml`` config is data (:mod:`.saved_config`) unless it is trusted.

    Args:
        path: a ``.py`` or ``.yaml`` file.
        overrides: ``key=value`` settings.
        eval_only: whether the config may lack what only training needs.
        trust_config: whether a ``.yaml`` file may name, and thus call, any function.

    Raises:
        UserError: the file does not exist (the message suggests similar names), cannot be executed, or lacks a required
            section, or an override is invalid.
    """
    check_is_file(path)
    cfg = _execute(path) if trust_config or path.endswith(".py") else load_saved_config(path)
    needed = _NEEDED if eval_only else _NEEDED + _NEEDED_TO_TRAIN
    missing = [key for key in needed if key not in cfg]
    if missing:
        raise UserError(f"config {path}: it defines no {', no '.join(missing)}; is it only a part of a config?")
    apply_overrides(cfg, overrides)
    _check_numbers(cfg)
    return cfg


def _check_numbers(cfg: DictConfig) -> None:
    """Raise an exception for an invalid number in a config, before the run writes anything.

    Raises:
        UserError: a number is too small, or the learning rate is not finite.
    """
    for key, least in _LEAST.items():
        value = OmegaConf.select(cfg, key)
        if isinstance(value, int | float) and not value >= least:
            raise UserError(f"{key}={value}: expected {least} or more")
    lr = OmegaConf.select(cfg, "optimizer.lr")
    if isinstance(lr, int | float) and not (math.isfinite(lr) and lr >= 0):
        raise UserError(f"optimizer.lr={lr}: expected a finite number of 0 or more")


def save_config(cfg: DictConfig, path: str) -> None:
    """Save a config as a YAML file, which :func:`load_config` can load.

    Raises:
        UserError: the disk is full.
    """
    with _files_in_utf8(_TextInMemory()) as files:
        LazyConfig.save(cfg, path)  # reports no error in writing, but logs a traceback
    text = files.text
    if text is not None:
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def check_is_file(path: str) -> None:
    """Raise an exception unless a config file exists; the message suggests similar names.

    Raises:
        UserError: the file does not exist, or is neither ``.py`` nor ``.yaml``.
    """
    file = Path(path)
    if not file.is_file():
        near = near_files(file)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"config {path or '(none given)'}: no such file{hint}")
    if file.suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"config {path}: expected a .py or .yaml file")


def near_files(file: Path) -> list[str]:
    """Find up to three config files whose names are similar to that of ``file``, or contain it.

    Searches the folder of ``file`` or, if it does not exist, its nearest existing parent (and ``configs/`` there).
    """
    folder = file.parent
    if not folder.is_dir():
        folder = next((parent for parent in folder.parents if parent.is_dir()), Path("."))
        folder = folder / "configs" if (folder / "configs").is_dir() else folder
    found = [candidate for pattern in ("*.py", "*.yaml", "*/*.py", "*/*.yaml") for candidate in folder.glob(pattern)]
    by_stem: dict[str, str] = {}
    for candidate in found:
        by_stem.setdefault(candidate.stem, str(candidate))
    # difflib does not match a short name with a long one that contains it.
    near = difflib.get_close_matches(file.stem, by_stem, n=3) or sorted(stem for stem in by_stem if file.stem in stem)[:3]
    return [by_stem[stem] for stem in near]


class _PathManagerInUTF8:
    """detectron2's path manager, except that text files are opened as UTF-8 instead of in the encoding of the locale."""

    def open(self, path: str, mode: str = "r") -> Any:
        return PathManager.open(path, mode, **({} if "b" in mode else {"encoding": "utf-8"}))

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)


_Files = TypeVar("_Files", bound=_PathManagerInUTF8)


class _TextInMemory(_PathManagerInUTF8):
    """Path manager that keeps the text of a written file as :attr:`text`, instead of writing the file."""

    text: str | None = None

    def open(self, path: str, mode: str = "r") -> Any:
        return self._keep() if mode == "w" else super().open(path, mode)

    @contextlib.contextmanager
    def _keep(self) -> Iterator[io.StringIO]:
        buffer = io.StringIO()
        yield buffer
        self.text = buffer.getvalue()


@contextlib.contextmanager
def _files_in_utf8(files: _Files) -> Iterator[_Files]:
    """Make ``LazyConfig`` read and write UTF-8, the encoding of Python and YAML files, which it leaves to the locale."""
    original = lazy.PathManager
    lazy.PathManager = files
    try:
        yield files
    finally:
        lazy.PathManager = original


def _execute(path: str) -> DictConfig:
    original_import = builtins.__import__  # detectron2 replaces it, and does not restore it when the config fails
    try:
        with _files_in_utf8(_PathManagerInUTF8()):
            return LazyConfig.load(path)
    except Exception as error:
        raise UserError(f"config {_place(path, error)}: {_cause(error)}") from error
    finally:
        builtins.__import__ = original_import


def _place(path: str, error: Exception) -> str:
    """Return ``file:line`` of the innermost config file that was being executed."""
    syntax_error = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
    if isinstance(syntax_error, SyntaxError):  # detectron2's message names the file; the line is in the chained error
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
