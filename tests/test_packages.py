"""Messages about optional packages that are not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from flash_internimage.errors import UserError
from flash_internimage.packages import EXTRAS, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


def test_an_installed_package_is_imported():
    assert require("json", "a test") is sys.modules["json"]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("gradio", "pip install gradio (the extra [app])"),
        ("onnx", "pip install onnx onnxscript onnxruntime (the extra [export])"),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, name, command):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as caught:
        require(name, "this")
    assert str(caught.value) == f"this needs {name}, which is not installed; {command}"


def test_a_missing_package_without_an_extra():
    with pytest.raises(UserError, match="needs no_such_package, which is not installed; pip install no_such_package$"):
        require("no_such_package", "this")


def test_the_extras_are_those_of_the_package():
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        assert sorted(packages) == sorted(one.split(">")[0] for one in declared[extra])


@pytest.mark.parametrize(
    "code",
    [
        "from flash_internimage import Predictor",
        "from flash_internimage import model_zoo; model_zoo.get('mask_rcnn_flash_intern_image_t_fpn_1x_coco')",
    ],
    ids=["Predictor", "model_zoo.get"],
)
def test_the_first_lines_of_a_program_print_no_warnings(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
