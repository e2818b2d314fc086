"""A short fuzz run, and that it would notice."""

import pytest

from tests.cuda_emulator import fuzz
from tests.cuda_emulator.build import VARIANTS, obstacle

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


def test_random_calls_give_no_report_and_no_wrong_number():
    counts = fuzz.fuzz(range(150), 0, VARIANTS)
    assert counts.total() == 150
    assert len(counts) == 12, "both operators, in every pair of dtypes"


def test_a_wrong_number_is_found_and_can_be_repeated(monkeypatch):
    monkeypatch.setattr(fuzz, "ms_deform_attn", lambda *arguments: fuzz.ms_deform_attn_oracle(*arguments) * 1.1)
    with pytest.raises(RuntimeError, match=r"repeat it with --seed 3 --call \d+: ms_deform_attn"):
        fuzz.fuzz(range(10), 3, VARIANTS[:1])
