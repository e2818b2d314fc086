"""The ONNX forms of the operators, in onnxruntime and OpenVINO, beside the compiled operators."""

import importlib.util

import pytest
import torch

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
    def off_by_one(inputs):
        return [(output + 1).numpy() for output in operator_check.Operators()(*map(torch.from_numpy, inputs.values()))]

    monkeypatch.setattr(operator_check, "to_onnx", lambda *arguments: None)
    monkeypatch.setattr(operator_check, "_onnxruntime", lambda path: off_by_one)
    with pytest.raises(VerificationError, match="should differ by at most 0.0001 from the compiled operators, got 1.0e"):
        check_operators("onnxruntime")
