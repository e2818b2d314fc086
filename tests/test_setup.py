"""setup.py: the decision whether to build CUDA kernels, tested with a fake toolkit, and the contents of the package."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def setup_py(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_py", repository / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _torch_with_cuda_13(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)


def make_toolkit(folder: Path, release: str = "13.0", missing_header: str | None = None) -> str:
    """Create a fake CUDA toolkit whose bin/nvcc script answers the queries of setup.py."""
    script = folder / "bin" / "nvcc"
    script.parent.mkdir(parents=True)
    compiles = f"echo 'fatal error: {missing_header}: No such file' >&2; exit 1" if missing_header else "exit 0"
    script.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"  --version) echo 'Cuda compilation tools, release {release}, V{release}.96';;\n"
        f"  --dryrun) echo '#$ _HERE_={script.parent}' >&2;;\n"
        "  --list-gpu-arch) printf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n';;\n"
        f"  -M) {compiles};;\n"
        "esac\n"
    )
    script.chmod(0o755)
    return str(folder)


def test_versions_compare_as_numbers(setup_py: ModuleType) -> None:
    assert setup_py.version_tuple("13.0") > setup_py.version_tuple("9.2")
    assert setup_py.version_tuple("2.10.1+cu130")[:2] > setup_py.version_tuple("2.4")


def test_working_toolkit_is_no_obstacle(setup_py: ModuleType, tmp_path: Path) -> None:
    assert setup_py.cuda_obstacle(make_toolkit(tmp_path)) is None


@pytest.mark.parametrize(
    ("toolkit", "message"),
    [
        pytest.param({"release": "9.2"}, "is 9.2, but torch was built with 13.0", id="another major version"),
        pytest.param({"missing_header": "cusparse.h"}, "cusparse.h: No such file", id="missing header"),
    ],
)
def test_reason_why_a_toolkit_cannot_be_used(setup_py: ModuleType, tmp_path: Path, toolkit: dict, message: str) -> None:
    assert message in setup_py.cuda_obstacle(make_toolkit(tmp_path, **toolkit))


def test_missing_toolkit_and_missing_nvcc_have_different_messages(setup_py: ModuleType, tmp_path: Path) -> None:
    assert "no CUDA toolkit was found" in setup_py.cuda_obstacle(None)
    assert "is CUDA_HOME right?" in setup_py.cuda_obstacle(str(tmp_path))


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("cuda", None, "is not a CUDA build"), ("hip", "6.0", "ROCm")],
    ids=["torch for the CPU", "torch for ROCm"],
)
def test_torch_must_be_a_cuda_build(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: str | None, message: str
) -> None:
    monkeypatch.setattr(torch.version, attribute, value)
    assert message in setup_py.cuda_obstacle(make_toolkit(tmp_path))


@pytest.mark.parametrize(
    ("forced", "works", "expected"),
    [("", True, True), ("", False, False), ("0", True, False), ("0", False, False), ("1", True, True)],
    ids=["available", "unavailable", "disabled", "disabled and unavailable", "forced"],
)
def test_cuda_is_built_if_available_unless_disabled(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str, works: bool, expected: bool
) -> None:
    monkeypatch.setenv("FORCE_CUDA", forced)
    home = make_toolkit(tmp_path, missing_header=None if works else "cusparse.h")
    assert setup_py.wants_cuda(home) is expected


def test_error_of_an_impossible_forced_build_has_the_reason(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="FORCE_CUDA=1, but .*cusparse.h"):
        setup_py.wants_cuda(make_toolkit(tmp_path, missing_header="cusparse.h"))


def test_force_cuda_must_be_0_or_1(setup_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_CUDA", "yes")
    with pytest.raises(SystemExit, match="0, 1 or unset, got 'yes'"):
        setup_py.wants_cuda(None)


def test_toolkit_is_found_through_an_nvcc_wrapper_script(
    setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_toolkit(tmp_path / "toolkit")
    wrapper = tmp_path / "path" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", f"{wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    assert setup_py.cuda_home() == home
    monkeypatch.setenv("CUDA_HOME", "/somewhere")
    assert setup_py.cuda_home() == "/somewhere"


def test_default_architectures_are_those_supported_by_the_toolkit(setup_py: ModuleType, tmp_path: Path) -> None:
    assert setup_py.default_architectures(make_toolkit(tmp_path)) == "7.5;8.0;9.0+PTX"


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
