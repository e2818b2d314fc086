"""How setup.py decides what to build, and what it packages."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.utils.cpp_extension


@pytest.fixture(scope="module")
def setup_py(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_py", repository / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NO_HEADER = "nvcc cannot compile and link: cusparse.h: No such file"


@pytest.fixture
def machine(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set what setup.py finds: a visible GPU, a toolkit that works."""

    def describe(forced: str = "", gpu: bool = True, works: bool = True) -> None:
        monkeypatch.setenv("FORCE_CUDA", forced)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(setup_py.cuda_toolkit, "gpu_is_visible", lambda: gpu)
        found = ("/toolkit", None) if works else (None, NO_HEADER)
        monkeypatch.setattr(setup_py.cuda_toolkit, "find", lambda link_folder: found)

    return describe


@pytest.mark.parametrize(
    ("forced", "gpu", "works", "expected"),
    [
        pytest.param("", True, True, "/toolkit", id="a GPU and a toolkit"),
        pytest.param("", False, True, None, id="no GPU"),
        pytest.param("", False, False, None, id="neither"),
        pytest.param("0", True, True, None, id="refused"),
        pytest.param("0", True, False, None, id="refused and not found"),
        pytest.param("1", False, True, "/toolkit", id="forced without a GPU"),
    ],
)
def test_cuda_kernels_are_built_for_a_gpu_or_on_request(
    setup_py: ModuleType, machine: Callable[..., None], forced: str, gpu: bool, works: bool, expected: str | None
) -> None:
    machine(forced, gpu, works)
    assert setup_py.find_toolkit() == expected


@pytest.mark.parametrize(
    ("forced", "cause"),
    [pytest.param("", "a GPU is visible", id="for a GPU"), pytest.param("1", "FORCE_CUDA=1", id="on request")],
)
def test_a_build_without_a_compiler_names_both_ways_on(
    setup_py: ModuleType, machine: Callable[..., None], forced: str, cause: str
) -> None:
    machine(forced, gpu=not forced, works=False)
    with pytest.raises(SystemExit) as error:
        setup_py.find_toolkit()
    assert str(error.value) == (
        f'setup.py: {cause}, but {NO_HEADER}; install a compiler with `pip install "cuda-toolkit[nvcc,cccl]==13.0.*"`, '
        "or set FORCE_CUDA=0 to build the CPU kernels only"
    )


def test_force_cuda_has_two_values(setup_py: ModuleType, machine: Callable[..., None]) -> None:
    machine("yes")
    with pytest.raises(SystemExit, match="0, 1 or unset, got 'yes'"):
        setup_py.find_toolkit()


def test_a_missing_compiler_is_named(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SystemExit, match=r"^setup.py: the C\+\+ compiler no-such-compiler was not found; install"):
        setup_py.require_build_tools()


def test_a_missing_ninja_is_named(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.cpp_extension, "is_ninja_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^setup.py: ninja was not found; install it with `pip install ninja`$"):
        setup_py.require_build_tools()


def test_an_isolated_build_says_how_to_build(repository: Path) -> None:
    """Without PyTorch, as in the isolated environment that pip creates for a build by default."""
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path('setup.py')"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert re.fullmatch(
        r"setup\.py: PyTorch cannot be imported \(.*\); install it, .* `pip install --no-build-isolation \.`\n", run.stderr
    )


@pytest.mark.parametrize(
    ("macro", "expected"), [("__GNUC__ 12", False), ("__clang__ 1", True), (None, False)], ids=["GCC", "Clang", "no compiler"]
)
def test_clang_is_recognized_by_its_macro(setup_py: ModuleType, tmp_path: Path, macro: str | None, expected: bool) -> None:
    compiler = tmp_path / "c++"
    if macro is not None:
        compiler.write_text(f"#!/bin/sh\necho '#define {macro}'\n")
        compiler.chmod(0o755)
    assert setup_py.is_clang(str(compiler)) is expected


def test_default_architectures_are_those_the_toolkit_knows(setup_py: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nprintf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n'\n")
    script.chmod(0o755)
    assert setup_py.default_architectures(str(tmp_path)) == "7.5;8.0;9.0+PTX"


@pytest.fixture(scope="module")
def built_package(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files of a wheel as laid out by setup.py, without the compiled extension."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    subprocess.run(command, cwd=repository, env={**os.environ, "FORCE_CUDA": "0"}, check=True, capture_output=True)
    return folder


def test_every_config_is_packaged_for_the_model_zoo(repository: Path, built_package: Path) -> None:
    source, packaged = repository / "configs", built_package / "flash_internimage" / "model_zoo" / "configs"
    expected = {path.relative_to(source) for path in source.rglob("*.py")}
    assert expected
    assert {path.relative_to(packaged) for path in packaged.rglob("*.py")} == expected


def test_every_project_is_packaged(repository: Path, built_package: Path) -> None:
    for project in (repository / "projects").glob("*/"):
        for path in project.glob("*/**/*.py"):
            assert (built_package / "flash_internimage" / "projects" / path.relative_to(project)).is_file()


def test_package_can_be_imported_outside_the_checkout(built_package: Path, tmp_path: Path) -> None:
    code = "import flash_internimage, flash_internimage.projects.dino as dino; print(flash_internimage.__file__, dino.__file__)"
    # The checkout may be installed too, so the built package must come first on the path.
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(built_package)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(Path(path).is_relative_to(built_package) for path in run.stdout.split())
