"""A short fuzz run, and a check that it detects errors."""

import pytest

from tests.sanitized import fuzz
from tests.sanitized.build import obstacle
from tests.sanitized.cpu.kernels import TESTED
from tests.sanitized.cuda.emulator import VARIANTS

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


@pytest.mark.parametrize(("variants", "pairs"), [(TESTED, 4), (VARIANTS, 6)], ids=["cpu", "cuda"])
def test_random_calls_give_no_report_and_no_wrong_number(variants, pairs):
    counts = fuzz.fuzz(range(150), 0, variants)
    assert counts.total() > 100
    names = {description.partition(" on ")[0] for description in counts}
    assert len(names) == 2 * pairs, "both operators, in every pair of dtypes that the programs are compiled for"


def test_a_wrong_number_is_found_and_can_be_repeated(monkeypatch):
    monkeypatch.setattr(fuzz, "ms_deform_attn", lambda *arguments: fuzz.ms_deform_attn_oracle(*arguments) * 1.1)
    with pytest.raises(RuntimeError, match=r"repeat it with --programs 'emulated sm_100 memory' --seed 3 --call \d+: ms_def"):
        fuzz.fuzz(range(10), 3, VARIANTS[:1])


def test_a_repeated_call_is_the_same_without_the_other_programs():
    some, all_of_them = fuzz.AnyProcess(TESTED), fuzz.AnyProcess([*VARIANTS, *TESTED])
    compared = 0
    for number in range(20):
        _, call = fuzz.draw_call(5, number)
        if some.able(call):
            program, variation = some.choose(call, f"5 {number}")
            same_program, same_variation = all_of_them.choose(call, f"5 {number}")
            if program == same_program:
                assert variation == same_variation
                compared += 1
    assert compared > 0
