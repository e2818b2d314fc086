"""A saved evaluation, shared by the tests of reports."""

import pytest

from tests.evaluation.drawn import evaluate_drawn_shapes


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """Output folder of an evaluation, beside its dataset."""
    return evaluate_drawn_shapes(tmp_path_factory.mktemp("evaluated"))
