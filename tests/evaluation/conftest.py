"""An evaluation for all tests of what is made of one."""

import pytest

from tests.evaluation.drawn import evaluate_drawn_shapes


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """Output folder of an evaluation, with its data beside it."""
    return evaluate_drawn_shapes(tmp_path_factory.mktemp("evaluated"))
