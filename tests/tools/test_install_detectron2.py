"""The patches of detectron2 0.6, applied to small texts, and the detection of an installed detectron2."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    """The program as a module; its folder is on the path during the import, as when it is run."""
    sys.path.insert(0, str(repository / "tools"))
    try:
        return importlib.import_module("install_detectron2")
    finally:
        sys.path.remove(str(repository / "tools"))


def test_patch_replaces_every_occurrence(tool: ModuleType) -> None:
    patch = tool.Patch("masks.py", "np.bool", "bool", "removed", count=2)
    assert tool.patch_text("a = np.bool\nb = np.bool\n", patch) == "a = bool\nb = bool\n"


@pytest.mark.parametrize("text", ["", "np.bool", "np.bool np.bool np.bool"], ids=["absent", "too few", "too many"])
def test_patch_rejects_another_number_of_occurrences(tool: ModuleType, text: str) -> None:
    patch = tool.Patch("masks.py", "np.bool", "bool", "removed", count=2)
    with pytest.raises(ValueError, match=rf"masks\.py should contain 'np\.bool' 2 time\(s\), found {text.count('np.bool')}"):
        tool.patch_text(text, patch)


def test_patches_change_and_add_files(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("import caffe2\n")
    patches = [tool.Patch("old.py", "import caffe2\n", "", "gone"), tool.Patch("new.py", "", "x = 1\n", "needed")]
    tool.apply_patches(tmp_path, patches)
    assert (tmp_path / "old.py").read_text() == ""
    assert (tmp_path / "new.py").read_text() == "x = 1\n"


def test_error_for_a_missing_file_names_it(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file detectron2/absent\.py"):
        tool.apply_patches(tmp_path, [tool.Patch("detectron2/absent.py", "a", "b", "why")])


def test_new_file_does_not_overwrite_an_existing_one(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("kept\n")
    with pytest.raises(ValueError, match=r"there\.py should be new"):
        tool.apply_patches(tmp_path, [tool.Patch("there.py", "", "x = 1\n", "why")])
    assert (tmp_path / "there.py").read_text() == "kept\n"


def test_every_patch_changes_the_text_and_has_a_one_line_reason(tool: ModuleType) -> None:
    for patch in tool.PATCHES:
        assert patch.old != patch.new
        assert 0 < len(patch.reason) < 120
        assert "\n" not in patch.reason


@pytest.mark.parametrize("name", ["np.bool", "np.int", "np.float", "np.str", "Image.LINEAR", "pkg_resources", "black=="])
def test_no_replacement_contains_the_removed_name(tool: ModuleType, name: str) -> None:
    patches = [patch for patch in tool.PATCHES if name in patch.old]
    assert patches
    assert not any(name in patch.new for patch in patches)


def test_error_of_the_placeholder_for_compiled_operators_names_the_operator(tool: ModuleType) -> None:
    (patch,) = [patch for patch in tool.PATCHES if patch.file == "detectron2/layers/compiled.py"]
    namespace: dict = {}
    exec(patch.new.replace("from detectron2 import _C", "raise ImportError"), namespace)
    with pytest.raises(ImportError, match=r"detectron2\._C\.box_iou_rotated is not available.*Build detectron2"):
        _ = namespace["_C"].box_iou_rotated


def test_folder_named_detectron2_is_not_an_installation(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "detectron2").mkdir()
    code = "import install_detectron2; print(install_detectron2.existing_detectron2())"
    paths = [str(Path(tool.__file__).parent), str(tmp_path)]
    # -S excludes the site-packages, and with them the installed detectron2.
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "None"


def test_installed_detectron2_is_not_replaced(repository: Path, tmp_path: Path) -> None:
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was imported')\n")
    code = f"import sys, runpy; sys.path[:0] = [{str(tmp_path)!r}, {str(repository / 'tools')!r}]; sys.argv = ['x']; "
    command = [sys.executable, "-c", code + "runpy.run_module('install_detectron2', run_name='__main__')"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"detectron2 is already installed in {package} and is not replaced\n"
