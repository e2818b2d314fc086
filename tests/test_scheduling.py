"""Distribution of the tests over processes: what stays together, and that the test command uses it."""

import re
from pathlib import Path

import pytest

from tests import scheduling


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        pytest.param("ops/test_dcnv4.py::test_a[CPU]", "ops/test_dcnv4.py::test_b", True, id="a file"),
        pytest.param("ops/test_dcnv4.py::test_a", "ops/test_flops.py::test_a", False, id="two files"),
        pytest.param("e2e/test_learning.py::test_a[dino]", "e2e/test_learning.py::test_a[cascade]", False, id="long tests"),
        pytest.param("golden/test_dino.py::test[t-float64-a-b]", "golden/test_dino.py::test[t-float64-c]", True, id="a model"),
        pytest.param("golden/test_dino.py::test[t-float64-a]", "golden/test_dino.py::test[b-float64-a]", False, id="two sizes"),
        pytest.param("golden/test_dino.py::test[t-float64-a]", "golden/test_dino.py::test[t-float32-a]", False, id="dtypes"),
        pytest.param("golden/test_cascade.py::test[float64-a]", "golden/test_cascade.py::test[float64-b]", True, id="one size"),
    ],
)
def test_tests_that_share_costly_fixtures_stay_together(first: str, second: str, together: bool) -> None:
    pytest.importorskip("xdist")
    assert (scheduling.unit(f"tests/{first}") == scheduling.unit(f"tests/{second}")) == together


def test_named_files_exist(repository: Path) -> None:
    for path in (*scheduling.DIVIDED, *scheduling.LONG):
        assert (repository / path).exists(), path


def test_the_test_command_selects_this_distribution(repository: Path) -> None:
    assert re.search(r"^pytest := .* --dist loadfile$", (repository / "Makefile").read_text(), flags=re.MULTILINE)
