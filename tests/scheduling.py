"""Distribution of the tests over the processes of pytest-xdist (``make test``).

The tests of a file run in one process, because they share fixtures; files with long independent tests are divided further.
"""

from __future__ import annotations

import re

import pytest
from xdist.scheduler import LoadScopeScheduling

# Files whose tests share no costly fixture.
DIVIDED = {"tests/e2e/test_custom_data.py", "tests/e2e/test_launchers.py", "tests/e2e/test_learning.py"}
# Files that take minutes start first, so that no process has to wait for them at the end.
LONG = ("tests/golden/test_cascade.py", "tests/test_wheel.py", "tests/golden/", "tests/e2e/", "tests/ops/", "tests/sanitized/")


def unit(nodeid: str) -> str:
    """Name of the unit of a test: the tests of a unit run in one process, in the order of collection."""
    file = nodeid.partition("::")[0]
    if file in DIVIDED:
        return nodeid
    # Each model of tests/golden runs once in each precision, when the first of its tests needs it.
    model = re.match(r"tests/golden/.*\[(\w-)?float\d\d-", nodeid)
    return model[0] if model else file


def longest_first(items: list[pytest.Item]) -> None:
    """Sort tests by ``LONG``, and otherwise keep their order."""

    def rank(item: pytest.Item) -> int:
        return next((place for place, prefix in enumerate(LONG) if item.nodeid.startswith(prefix)), len(LONG))

    items.sort(key=rank)


class UnitScheduling(LoadScopeScheduling):
    """Assigns the next unit to the first process that has finished its own."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
