"""Renaming tensors by a table of rules that reads the same in both directions.

A rule is a pair of templates, ``("neck.lateral_convs.{i}.conv.*", "backbone.fpn_lateral{i+2}.*")``: ``{i}`` is an integer
(``{i+2}`` the same integer written two higher), and a final ``*`` is whatever follows. The same pair translates a name
either way, so a table cannot disagree with its inverse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from flash_internimage.errors import UserError

_FIELD = re.compile(r"\{(\w)(?:\+(\d+))?\}")
_REST = "rest"


@dataclass(frozen=True)
class Template:
    """One side of a rule: matches names and writes them."""

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

    def match(self, name: str) -> dict[str, int | str] | None:
        """The values of the template's fields in ``name``, or None where it does not match in full."""
        found = self._pattern.fullmatch(name)
        if found is None:
            return None
        values: dict[str, int | str] = dict(found.groupdict())
        values.update({field: int(found[field]) - shift for field, shift in self._shifts.items()})
        # A negative number would be written back as another name ("fpn_lateral1" has no counterpart).
        return None if any(values[field] < 0 for field in self._shifts) else values

    def write(self, values: dict[str, int | str]) -> str:
        """The name that the field values give."""
        text = _FIELD.sub(lambda field: str(values[field[1]] + int(field[2] or 0)), self.text)
        return text.replace("*", str(values.get(_REST, "")))


@dataclass(frozen=True)
class Table:
    """An ordered list of rules; the first template that matches a name decides."""

    rules: tuple[tuple[Template, Template], ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> Table:
        return cls(tuple((Template(left), Template(right)) for left, right in pairs))

    @property
    def inverse(self) -> Table:
        return Table(tuple((right, left) for left, right in self.rules))

    def rename(self, name: str) -> str | None:
        """``name`` on the right-hand side of the table, or None if no rule knows it."""
        for source, target in self.rules:
            values = source.match(name)
            if values is not None:
                return target.write(values)
        return None

    def rename_all(self, names: Iterable[str]) -> dict[str, str]:
        """Old name -> new name for those that a rule knows.

        Raises:
            UserError: two names would become one.
        """
        renamed = {name: target for name in names if (target := self.rename(name)) is not None}
        taken: dict[str, str] = {}
        for name, target in renamed.items():
            if target in taken:
                raise UserError(f"both {taken[target]!r} and {name!r} would be renamed to {target!r}")
            taken[target] = name
        return renamed
