"""The ONNX forms of the operators, in onnxruntime and OpenVINO, beside the compiled operators."""

import importlib.util

import pytest

from flash_internimage.export import operator_check
from flash_internimage.export.operator_check import check_operators
from flash_internimage.export.verification import VerificationError
from flash_internimage.export.writing import OPERATOR_FORMS

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("target", OPERATOR_FORMS)
def test_forms_equal_the_compiled_operators(target):
    if target == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("needs openvino")
    assert 0 < check_operators(target) < 1e-4


def test_a_wrong_form_is_reported(monkeypatch):
    def swapped(locations, *arguments, of=operator_check.ms_deform_attn):
        return of(locations, *arguments) + 1

    monkeypatch.setattr(operator_check, "ms_deform_attn", swapped)
    original = operator_check.to_onnx

    def without_the_change(program, *arguments):
        monkeypatch.undo()
        original(program, *arguments)

    monkeypatch.setattr(operator_check, "to_onnx", without_the_change)
    with pytest.raises(VerificationError, match="should differ by at most 0.0001 from the compiled operators, got 1.0e"):
        check_operators("onnxruntime")
