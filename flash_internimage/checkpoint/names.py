"""Renaming tensors with a table of bidirectional rules.

A rule is a pair of templates, ``("neck.lateral_convs.{i}.conv.*", "backbone.fpn_lateral{i+2}.*")``: ``{i}`` is an integer,
``{i+2}`` the same integer plus two, and a final ``*`` is the rest of the name. The same pair translates names in both
directions, so a table and its inverse always agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flash_internimage.errors import UserError

_FIELD = re.compile(r"\{(\w)(?:\+(\d+))?\}")
_REST = "rest"


@dataclass(frozen=True)
class Template:
    """One side of a rule, which matches and writes names."""

    text: str

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        prefix, star, _ = self.text.partition("*")
        pieces, position = [], 0
        for field in _FIELD.finditer(prefix):
            pieces += [re.escape(prefix[position : field.start()]), rf"(?P<{field[1]}>\d+)"]
            position = field.end()
        pieces.append(re.escape(prefix[position:]))
        return re.compile("".join(pieces) + (rf"(?P<{_REST}>.+)" if star else ""))

    @cached_property
    def _shifts(self) -> dict[str, int]:
        return {field[1]: int(field[2] or 0) for field in _FIELD.finditer(self.text)}

    def match(self, name: str) -> dict[str, Any] | None:
        """The values of the template's fields in ``name``, or None if it does not match the whole name."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        values: dict[str, Any] = dict(found.groupdict())
        values.update({field: int(found[field]) - shift for field, shift in self._shifts.items()})
        # Negative numbers have no counterpart, such as that of "fpn_lateral1".
        return None if any(values[field] < 0 for field in self._shifts) else values

    def write(self, values: Mapping[str, Any]) -> str:
        """The name with these values of the fields."""
        text = _FIELD.sub(lambda field: str(values[field[1]] + int(field[2] or 0)), self.text)
        return text.replace("*", str(values.get(_REST, "")))


@dataclass(frozen=True)
class Table:
    """An ordered list of rules; the first one that matches a name applies."""

    rules: tuple[tuple[Template, Template], ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Table:
        return cls(tuple((Template(left), Template(right)) for left, right in pairs))

    @property
    def inverse(self) -> Table:
        return Table(tuple((right, left) for left, right in self.rules))

    def rename(self, name: str) -> str | None:
        """The counterpart of ``name`` on the right-hand side of the table, or None if no rule matches."""
        for source, target in self.rules:
            values = source.match(name)
            if values is not None:
                return target.write(values)
        return None

    def rename_all(self, names: Iterable[str]) -> dict[str, str]:
        """Old name -> new name, for all names that match a rule.

        Raises:
            UserError: two names would be renamed to the same name.
        """
        renamed = {name: target for name in names if (target := self.rename(name)) is not None}
        taken: dict[str, str] = {}
        for name, target in renamed.items():
            if target in taken:
                raise UserError(f"both {taken[target]!r} and {name!r} would be renamed to {target!r}")
            taken[target] = name
        return renamed
