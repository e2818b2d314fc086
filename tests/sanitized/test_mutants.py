"""Every mutant applies to the present kernels. `make mutants` shows that the tests detect each of them."""

import pytest

from tests.sanitized.mutants import CSRC, MUTANTS, Mutant, apply


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.description)
def test_applies(mutant):
    assert apply(mutant, CSRC) != (CSRC / mutant.file).read_text()


def test_one_that_does_not_apply_is_an_error():
    with pytest.raises(ValueError, match=r"mutant 'no such line': cuda/vector\.cuh should have 'nowhere' once, has it 0 times"):
        apply(Mutant("no such line", "cuda/vector.cuh", "nowhere", ""), CSRC)
