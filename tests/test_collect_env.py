"""The report of versions and build flags, with and without the extension and detectron2."""

import sys

import pytest

from flash_internimage import __version__
from flash_internimage.collect_env import collect_env, format_table


def test_report_has_the_version_and_the_instruction_set() -> None:
    rows = collect_env()
    assert rows["flash_internimage"].startswith(__version__)
    assert rows["CPU instruction set"]
    assert rows["detectron2"]


def test_report_describes_the_extension() -> None:
    extension = pytest.importorskip("flash_internimage._C", exc_type=ImportError)
    rows = collect_env()
    assert rows["extension"] == extension.__file__
    assert rows["CPU instruction set"] in ("generic", "AVX2", "AVX512")
    if extension.build_info()["cuda"]:
        assert rows["CUDA kernels"].startswith("built with CUDA")
    else:
        assert rows["CUDA kernels"] == "not built"


def test_failed_imports_are_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flash_internimage._C", "detectron2"):
        monkeypatch.setitem(sys.modules, name, None)
    rows = collect_env()
    assert rows["extension"].startswith("cannot be imported: ")
    assert rows["detectron2"].startswith("cannot be imported: ")
    assert rows["CPU instruction set"].endswith("(PyTorch's)")


def test_columns_are_aligned() -> None:
    assert format_table({"a": "1", "long": "2"}) == "a     1\nlong  2"
