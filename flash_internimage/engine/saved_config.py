"""Reading the ``config.yaml`` of a run as data: it can name the parts of a model but cannot run code.

detectron2 reads such files with YAML's unsafe loader, which calls any function that a tag names, and then calls any function
that a ``_target_`` names. Here a file may hold only the tags that :func:`.config.save_config` writes, and the names in it must
be those of classes and functions of the packages in :data:`TRUSTED`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import yaml
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from flash_internimage.errors import UserError
from flash_internimage.path_manager import PathManager

TRUSTED = (
    *(
        f"flash_internimage.{part}"
        for part in ("backbones", "data", "evaluation", "layers", "modeling", "ops", "projects", "solver", "structures")
    ),
    "flash_internimage.views",
    *(f"detectron2.{part}" for part in ("data.transforms", "evaluation", "layers", "modeling", "solver", "structures")),
    *(f"fvcore.{part}" for part in ("common.param_scheduler", "nn", "transforms")),
    "torch.nn",
    "torch.optim",
    "torchvision.transforms.v2",
)
"""Packages whose classes and functions a saved config may name. The rest of them can read pickles, import and compile."""

_MAX_SIZE = 1 << 20  # characters; a saved config has 10 to 30 thousand
_MAX_NODES = 100_000  # after aliases are expanded
_PYTHON = "tag:yaml.org,2002:python/"
_REFERENCE = re.compile(r"\$\{[\w.\[\]-]+\}")  # ${train.output_dir}; ${oc.env:NAME} reads more than the config


def load_saved_config(path: str) -> DictConfig:
    """Load a ``.yaml`` config in which all names must belong to trusted packages.

    Raises:
        UserError: the file is not a config, or contains something that is not allowed in one.
    """
    try:
        with PathManager.open(path, "r", encoding="utf-8") as file:
            text = file.read(_MAX_SIZE + 1)
        if len(text) > _MAX_SIZE:
            raise _Refused(f"it has more than {_MAX_SIZE:,} characters, which is not a config")
        loader = _Loader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
        if not isinstance(content, dict):
            raise _Refused(f"expected keys and values, got {type(content).__name__}")
        _Checker().check(content)
        return OmegaConf.create(content, flags={"allow_objects": True})
    except _Refused as error:
        raise UserError(f"config {path}: {error}") from error
    except Exception as error:  # YAML and OmegaConf raise exceptions of many types
        raise UserError(f"config {path}: {type(error).__name__}: {' '.join(str(error).split())[:500]}") from error


class _Refused(Exception):
    """Raised for a part of a file that is refused; the message says why, with the file as its subject."""


def _trusted(name: str) -> Callable[..., Any]:
    """Return the class or function of a name.

    Raises:
        _Refused: the name does not exist, or belongs to a package that is not trusted.
    """
    hint = (
        "it may name parts of models, data and solvers in torch, torchvision, detectron2, fvcore and flash_internimage; give "
        "--trust-config (trust_config=True) if you trust it like a program"
    )
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", name) or not _is_in_trusted(name):
        raise _Refused(f"it names {name[:100]!r}, which a saved config may not call: {hint}")
    try:
        found = locate(name)
    except Exception as error:
        raise _Refused(f"it names {name[:100]!r}, which cannot be imported ({error})") from error
    # A name such as "torch.nn.functional.warnings.os.system" starts like a trusted one.
    if not (inspect.isclass(found) or inspect.isroutine(found)) or not _is_in_trusted(getattr(found, "__module__", None) or ""):
        raise _Refused(f"it names {name[:100]!r}, which is no class or function of its own package: {hint}")
    return found


def _is_in_trusted(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in TRUSTED)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, extended by the tags of saved configs: tuples, names and ``functools.partial``."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse merge keys, which a saved config does not have, and which can make a small file large."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise _Refused("it has a YAML merge key (<<), which a saved config does not have")


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _name(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> Callable[..., Any]:
    return _trusted(name)


def _partial(loader: yaml.SafeLoader, node: yaml.Node) -> functools.partial:
    content = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    arguments, state = content.get("args"), content.get("state")
    if isinstance(arguments, list) and isinstance(state, tuple) and len(arguments) == 1 and len(state) == 4:
        function, positional, keywords = state[:3]
        is_partial = callable(function) and isinstance(positional, tuple) and isinstance(keywords, dict)
        if is_partial and function is arguments[0] and all(isinstance(key, str) for key in keywords):
            return functools.partial(function, *positional, **keywords)
    raise _Refused("it holds a functools.partial that save_config did not write")


def _other(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> None:
    raise _Refused(
        f"it holds the YAML tag {node.tag.replace('tag:yaml.org,2002:', '!!')[:100]!r}, which can run code; give "
        "--trust-config (trust_config=True) if you trust it like a program"
    )


_Loader.add_constructor(f"{_PYTHON}tuple", _tuple)
_Loader.add_multi_constructor(f"{_PYTHON}name:", _name)
_Loader.add_constructor(f"{_PYTHON}object/apply:functools.partial", _partial)
_Loader.add_multi_constructor("", _other)


class _Checker:
    """Checks the names and the size of a config, before OmegaConf expands its aliases."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # of containers that were checked, by id

    def check(self, value: Any) -> int:
        """Check a value; return the number of its nodes with all aliases expanded."""
        if isinstance(value, str) and "${" in _REFERENCE.sub("", value):
            raise _Refused(
                f"it has the interpolation {value[:100]!r}, which reads more than the config; give "
                "--trust-config if you trust it"
            )
        if not isinstance(value, dict | list | tuple):
            return 1
        if id(value) in self._sizes:
            return self._sizes[id(value)]
        self._sizes[id(value)] = _MAX_NODES + 1  # of a container that holds itself
        if isinstance(value, dict) and "_target_" in value:
            target = value["_target_"]
            if isinstance(target, str):
                _trusted(target)
            elif not callable(target):  # a callable is the value of a checked name
                raise _Refused(f"it has a _target_ that is no name: {str(target)[:100]}")
        size = 1 + sum(map(self.check, value.values() if isinstance(value, dict) else value))
        if size > _MAX_NODES:
            raise _Refused(f"it has more than {_MAX_NODES:,} values")
        self._sizes[id(value)] = size
        return size
