"""Numbers with their nouns and verbs, for messages."""

from __future__ import annotations

import re
from collections.abc import Sized

_FORMS = re.compile(r"\[([^][|]*)\|([^][|]*)\]")  # [singular|plural]


def counted(things: Sized | int, noun: str, plural: str | None = None) -> str:
    """Return the number of things with their noun, such as "1 error" or "2 errors"."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def agree(text: str, things: Sized | int) -> str:
    """Choose the words of a text that agree with a number: ``[image is|images are] missing`` for 1 is "image is missing"."""
    number = things if isinstance(things, int) else len(things)
    return _FORMS.sub(r"\1" if number == 1 else r"\2", text)
