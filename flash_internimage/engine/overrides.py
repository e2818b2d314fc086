"""Validated ``key=value`` overrides of a config.

OmegaConf adds unknown keys silently, and the run ignores them. Here a key must exist in the config, or be an argument of the
callable that its section instantiates, and the new value must have the type of the old one.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flash_internimage.errors import UserError

_MISSING = object()
_WORDS = {"dataloader.train.total_batch_size": (1, ("auto",))}
"""Values other than numbers that the value of a key may have, with a value of its usual type."""
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def apply_overrides(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Apply ``key=value`` overrides to a config, in order and in place.

    Values follow hydra's grammar, as in detectron2's LazyConfig: ``12``, ``1e-4``, ``true``, ``null``, ``text``, ``[1,2]``,
    ``{a:1}``, ``${train.seed}``.

    Raises:
        UserError: an override is not ``key=value``, its key is unknown (the message suggests similar keys), or its value does
            not have the type of the old one.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise UserError(f"override {override!r}: expected key=value with a dotted key, such as train.max_iter=1000")
        old = _lookup(cfg, key)
        OmegaConf.update(cfg, key, _checked(cfg, key, old, _parse(key, text), text), merge=True)


def _parse(key: str, text: str) -> Any:
    """Parse the value of an override; anything but a literal, list or mapping is a string (a path with spaces or brackets)."""
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException:
        return text
    return text if parsed.is_sweep_override() else parsed.value()


def _lookup(cfg: DictConfig, key: str) -> Any:
    """Return the current value of a key: a value, a section, or the default of an argument that its section does not set."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth])
        if isinstance(node, DictConfig):
            known = list(node)
            arguments = _arguments(node)
            if part in known:
                node = _get(node, part)
                continue
            if part in arguments and depth == len(parts) - 1:
                return _default(arguments[part])
            raise UserError(_unknown(cfg, key, path, part, [*known, *(a for a in arguments if a not in known)]))
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f"unknown config key {key!r}: {path!r} is a list of {len(node)}, with keys 0 to {len(node) - 1}"
                )
            node = node[int(part)]
            continue
        raise UserError(f"unknown config key {key!r}: {path!r} is not a section but {_describe(node)}")
    return node


def _get(node: DictConfig, part: str) -> Any:
    """Return the value of a key; None for an interpolation that cannot be resolved yet."""
    try:
        return node[part]
    except OmegaConfBaseException:
        return None


def _arguments(node: DictConfig) -> dict[str, inspect.Parameter]:
    """Return the named arguments of the callable that a section instantiates."""
    target = node.get("_target_", None)
    target = locate(target) if isinstance(target, str) else target
    if not callable(target):
        return {}
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in named}


def _default(parameter: inspect.Parameter) -> Any:
    return None if parameter.default is inspect.Parameter.empty else parameter.default


def _unknown(cfg: DictConfig, key: str, path: str, part: str, siblings: list[str]) -> str:
    prefix = f"{path}." if path else ""
    rest = key[len(prefix + part) :]
    near = [prefix + name + rest for name in difflib.get_close_matches(part, siblings, n=3)]
    if not near and not path:  # a key given without its section
        near = [known for known in _all_keys(cfg) if known.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:3]
    if not near:
        names = ", ".join(name for name in siblings if name != "_target_")
        return f"unknown config key {key!r}: {path or 'the config'} has {names or 'no keys'}"
    return f"unknown config key {key!r}: did you mean {' or '.join(near)}?"


def _all_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, node):
        yield prefix + name
        value = _get(node, name)
        if isinstance(value, DictConfig):
            yield from _all_keys(value, f"{prefix}{name}.")


def _checked(cfg: DictConfig, key: str, old: Any, new: Any, text: str) -> Any:
    """Convert ``new`` to the type of ``old``, for example ``1`` to a float.

    Raises:
        UserError: the types are incompatible.
    """
    if isinstance(old, DictConfig) and isinstance(new, dict):
        for name, value in new.items():
            below = f"{key}.{name}"
            new[name] = _checked(cfg, below, _lookup(cfg, below), value, str(value))
        return new
    if new is None and _may_be_none(cfg, key):
        return None
    usual, words = _WORDS.get(key, (old, ()))
    if new in words:
        return new
    old = usual if old in words else old
    value = convert(old, new, text)
    if value is _MISSING:
        others = "".join(f", or {word}" for word in words)
        raise UserError(f"config key {key!r}: expected a value like {_describe(old)}{others}, got {_describe(new)}")
    return value


def _may_be_none(cfg: DictConfig, key: str) -> bool:
    """Return whether a key is an argument of the callable of its section with None as its default."""
    section, _, name = key.rpartition(".")
    node = _lookup(cfg, section) if section else cfg
    argument = _arguments(node).get(name) if isinstance(node, DictConfig) else None
    return argument is not None and argument.default is None


def convert(old: Any, new: Any, text: str) -> Any:
    """Convert ``new`` to the type of ``old``; return ``_MISSING`` if the types are incompatible.

    Args:
        old: value in the config; None accepts any type.
        new: parsed value of the override.
        text: unparsed value of the override, used if ``old`` is a string: ``output_dir=2024`` is a folder name.
    """
    if old is None or (isinstance(new, str) and new.startswith("${")):
        return new
    if new is None:  # null disables any value except booleans and counts, for which it would be ambiguous by its type alone
        return _MISSING if isinstance(old, (bool, int)) else None
    if isinstance(old, bool):
        return new if isinstance(new, bool) else _MISSING
    if isinstance(old, int):
        whole = isinstance(new, int) or (isinstance(new, float) and new.is_integer())
        return int(new) if whole and not isinstance(new, bool) else _MISSING
    if isinstance(old, float):
        return float(new) if isinstance(new, (int, float)) and not isinstance(new, bool) else _MISSING
    if isinstance(old, str):
        return _MISSING if isinstance(new, (bool, list, dict)) else new if isinstance(new, str) else text
    if isinstance(old, (ListConfig, list, tuple)):
        return _convert_list(list(old), new)
    if isinstance(old, (DictConfig, dict)):
        return new if isinstance(new, dict) else _MISSING
    return new if isinstance(new, str) else _MISSING  # a callable or another object, given by its dotted name


def _convert_list(old: list[Any], new: Any) -> Any:
    """Return a new list if each element has the type of some old element; ``[1]`` may become ``[0.5]``."""
    if not isinstance(new, list):
        return _MISSING
    if not old:
        return new
    # The integers of a list are often floats that happen to be integral.
    kinds = [float(value) if isinstance(value, int) and not isinstance(value, bool) else value for value in old]
    for value in new:
        if all(convert(kind, value, str(value)) is _MISSING for kind in kinds):
            return _MISSING
    return new


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (DictConfig, dict)):
        return f"the section with keys {', '.join(str(name) for name in value if name != '_target_')}"
    if isinstance(value, (ListConfig, list, tuple)):
        return f"the list {list(value)}"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean, true or false)"
    if isinstance(value, int):
        return f"{value} (an integer)"
    if isinstance(value, float):
        return f"{value} (a number)"
    return f"{value!r} (a string)" if isinstance(value, str) else f"{value} (an object)"
