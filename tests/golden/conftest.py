"""Option ``--parity`` (``make parity``): print a table of all comparisons with MMDetection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.golden.comparison import Comparison

Judge = Callable[[str, str, Comparison], None]
Table = dict[tuple[str, str], dict[str, Comparison]]

_TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity", action="store_true", help="print every comparison with MMDetection")


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Judge:
    """Function (model, precision, comparison) that adds a comparison to the table and asserts that it passed."""

    def add_and_assert(model: str, precision: str, comparison: Comparison) -> None:
        table = request.config.stash.setdefault(_TABLE, {})
        table.setdefault((model, comparison.name), {})[precision] = comparison
        assert comparison.passed, comparison

    return add_and_assert


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, {})
    if not config.getoption("--parity", default=False) or not table:
        return
    terminalreporter.section("difference from MMDetection: largest absolute, relative, allowed")
    for (model, name), by_precision in table.items():
        columns = [
            f"{precision} {c.absolute:8.1e} {c.relative:8.1e} {c.tolerance:8.1e} {'ok' if c.passed else 'FAILED'}"
            for precision, c in sorted(by_precision.items(), reverse=True)
        ]
        terminalreporter.write_line(f"{model:<14} {name:<36} {'   '.join(columns)}")
