"""How a CUDA toolkit is found, with toolkits that are scripts and with NVIDIA's Python packages as empty folders."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def toolkit(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_toolkit", repository / "tools" / "cuda_toolkit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _torch_with_cuda_13(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)


def make_toolkit(folder: Path, release: str = "13.0", missing_header: str = "", missing_library: str = "") -> str:
    """A folder whose bin/nvcc answers what is asked of one."""
    script = folder / "bin" / "nvcc"
    script.parent.mkdir(parents=True)
    no_header = f"echo 'fatal error: {missing_header}: No such file' >&2; exit 1" if missing_header else "exit 0"
    no_library = f"echo 'ld: cannot find -l{missing_library}' >&2; exit 1" if missing_library else "exit 0"
    script.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"  --version) echo 'Cuda compilation tools, release {release}, V{release}.96';;\n"
        f"  --dryrun) echo '#$ _HERE_={script.parent}' >&2;;\n"
        f"  -M) {no_header};;\n"
        f"  -shared) {no_library};;\n"
        "esac\n"
    )
    script.chmod(0o755)
    return str(folder)


def make_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NVIDIA's Python packages, with a CUDA runtime, as the only ones."""
    home = folder / "nvidia" / "cu13"
    (home / "lib").mkdir(parents=True)
    (home / "lib" / "libcudart.so.13").touch()
    found = type("Spec", (), {"submodule_search_locations": [str(folder / "nvidia")]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    return home


def test_versions_compare_as_numbers(toolkit: ModuleType) -> None:
    assert toolkit.version_tuple("13.0") > toolkit.version_tuple("9.2")
    assert toolkit.version_tuple("2.10.1+cu130")[:2] > toolkit.version_tuple("2.4")


def test_a_complete_toolkit_has_no_obstacle(toolkit: ModuleType, tmp_path: Path) -> None:
    assert toolkit.obstacle(make_toolkit(tmp_path / "toolkit"), tmp_path) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"release": "9.2"}, "is 9.2, but torch was built with 13.0", id="another major version"),
        pytest.param({"missing_header": "cusparse.h"}, "cusparse.h: No such file", id="a header is missing"),
        pytest.param({"missing_library": "cudart"}, "cannot find -lcudart", id="a library is missing"),
    ],
)
def test_an_incomplete_toolkit_is_described(toolkit: ModuleType, tmp_path: Path, options: dict, message: str) -> None:
    assert message in toolkit.obstacle(make_toolkit(tmp_path / "toolkit", **options), tmp_path)


def test_a_wrong_cuda_home_is_named(toolkit: ModuleType, tmp_path: Path) -> None:
    assert f"{tmp_path}/bin/nvcc does not exist (is CUDA_HOME right?)" in toolkit.obstacle(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("cuda", None, "is not a CUDA build"), ("hip", "6.0", "ROCm")],
    ids=["torch for the CPU", "torch for ROCm"],
)
def test_torch_has_to_be_a_cuda_build(
    toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: str | None, message: str
) -> None:
    monkeypatch.setenv("CUDA_HOME", make_toolkit(tmp_path / "toolkit"))
    monkeypatch.setattr(torch.version, attribute, value)
    home, reason = toolkit.find(tmp_path)
    assert home is None
    assert message in reason


def test_a_script_called_nvcc_leads_to_the_toolkit(toolkit: ModuleType, tmp_path: Path) -> None:
    home = make_toolkit(tmp_path / "toolkit")
    wrapper = tmp_path / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    assert toolkit.home_of(str(wrapper)) == home


def test_toolkits_are_tried_in_order(toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheels(tmp_path / "site-packages", monkeypatch)
    make_toolkit(wheel)
    on_path = make_toolkit(tmp_path / "on_path", release="12.8")
    monkeypatch.setenv("PATH", f"{on_path}/bin{os.pathsep}{os.environ['PATH']}")
    real_exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path != "/usr/local/cuda/bin/nvcc" and real_exists(path))
    assert list(toolkit.candidates()) == [on_path, str(wheel)]
    assert toolkit.find(tmp_path / "link") == (str(wheel), None)  # the one on the PATH is of another major version
    named = make_toolkit(tmp_path / "named", missing_header="cusparse.h")
    monkeypatch.setenv("CUDA_HOME", named)
    home, reason = toolkit.find(tmp_path / "link")
    assert home is None  # a toolkit that is named is not silently replaced by another
    assert "cusparse.h" in reason


def test_the_runtime_of_a_wheel_gets_the_name_that_the_linker_wants(
    toolkit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheels(tmp_path / "site-packages", monkeypatch)
    for _ in range(2):  # a link that exists is replaced
        (folder,) = toolkit.link_cudart(tmp_path / "build" / "link")
        assert (Path(folder) / "libcudart.so").resolve() == wheel / "lib" / "libcudart.so.13"


def test_the_requirement_is_of_torchs_own_cuda_version(toolkit: ModuleType) -> None:
    assert toolkit.requirement() == "cuda-toolkit[nvcc,cccl]==13.0.*"
