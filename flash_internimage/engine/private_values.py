"""Values of a config that should not leave the machine: credentials in URLs, and absolute paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, ListConfig, OmegaConf

_URL = re.compile(r"\w[\w+.-]*://")


def clear_texts(node: DictConfig | ListConfig, is_private: Callable[[str], bool]) -> None:
    """Replace the texts for which ``is_private`` is true, anywhere in a config, by None; interpolations are not resolved."""
    _clear(node, OmegaConf.to_container(node, resolve=False), is_private)


def _clear(node: DictConfig | ListConfig, values: Any, is_private: Callable[[str], bool]) -> None:
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            _clear(node[key], value, is_private)
        elif isinstance(value, str) and is_private(value):
            node[key] = None


def has_credentials(text: str) -> bool:
    """Return whether a text is a URL with a user, a password or a query, which may hold a token."""
    if _URL.match(text) is None:
        return False
    try:
        url = urlsplit(text)
    except ValueError:  # not a valid URL
        return "@" in text or "?" in text
    return "@" in url.netloc or bool(url.query)


def is_absolute_path(text: str) -> bool:
    """Return whether a text is an absolute path of any operating system, one in a home folder, or a ``file://`` URL."""
    return text.startswith(("~", "file:")) or PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
