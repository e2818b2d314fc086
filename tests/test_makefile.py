"""The Makefile: its list of targets, and the commands that it would run (make -n)."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

STAMPS = [".python", ".requirements", ".detectron2", ".package", ".extension"]


def make(repository: Path, *arguments: str) -> str:
    # If make runs this test, its MAKEFLAGS would affect the make started here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A virtual environment with the stamp files of all installation steps, newer than all files of the checkout."""
    for stamp in STAMPS:
        (tmp_path / stamp).touch()
        os.utime(tmp_path / stamp, (time.time() + 3600,) * 2)
    return tmp_path


def test_default_target_lists_every_target_with_a_description(repository: Path) -> None:
    listed = dict(re.findall(r"^(\S+)\s{2,}(\S.*)$", make(repository), flags=re.MULTILINE))
    phony = re.findall(r"^\.PHONY: (\S+)$", (repository / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(listed) == set(phony)
    assert {"install", "test", "demo", "lint", "format"} <= set(listed)


def test_second_install_runs_no_command(repository: Path, installed: Path) -> None:
    assert "Nothing to be done" in make(repository, "-n", "install", f"VENV={installed}")


def test_change_in_csrc_rebuilds_only_the_extension(repository: Path, installed: Path) -> None:
    plan = make(repository, "-n", "-W", "csrc/extension.cpp", "install", f"VENV={installed}")
    commands = [line for line in plan.splitlines() if not line.startswith("touch")]
    assert len(commands) == 1
    assert commands[0].endswith("build_ext --inplace")


def test_first_install_runs_every_step_in_order(repository: Path, tmp_path: Path) -> None:
    plan = make(repository, "-n", "install", f"VENV={tmp_path}")
    steps = ["-m venv", "requirements/torch.txt", "tools/install_detectron2.py", "--no-build-isolation", "build_ext --inplace"]
    positions = [plan.index(step) for step in steps]
    assert positions == sorted(positions)


def test_versions_of_the_lint_tools_are_pinned_in_one_file(repository: Path) -> None:
    files = ["pyproject.toml", "Makefile", ".pre-commit-config.yaml", *(repository / "requirements").glob("*.txt")]
    pins = [
        (pin, (repository / file).name)
        for file in files
        for pin in re.findall(r"\b(clang-format|mypy|ruff)\s*[=~<>]=", (repository / file).read_text())
    ]
    assert sorted(pins) == [(tool, "constraints.txt") for tool in ("clang-format", "mypy", "ruff")]


def test_commit_hooks_run_the_tools_that_make_lint_runs(repository: Path) -> None:
    programs = {line.split()[0] for line in make(repository, "-n", "lint").splitlines()}
    entries = re.findall(r"entry: (\S+)", (repository / ".pre-commit-config.yaml").read_text())
    assert len(entries) == 3
    assert set(entries) <= programs


def test_gpu_check_installs_nothing_on_a_bare_machine_with_a_kit(repository: Path, tmp_path: Path) -> None:
    """Without a complete .venv, but with build/gpu-kit, the Python of the machine runs it; otherwise that of .venv."""
    for name in ("Makefile", "csrc", "requirements", "setup.py", "pyproject.toml", "tools"):
        (tmp_path / name).symlink_to(repository / name)
    assert "-m venv" in make(tmp_path, "-n", "gpu")
    (tmp_path / "build" / "gpu-kit").mkdir(parents=True)
    (tmp_path / "build" / "gpu-kit" / "kit.json").touch()
    bare = ["python3.12", "tools/gpu_check.py"]
    assert make(tmp_path, "-n", "gpu", "PYTHON=python3.12").split() == bare
    venv = tmp_path / ".venv"
    venv.mkdir()
    for stamp in STAMPS[:-1]:  # an installation that stopped, for lack of a network or a compiler
        (venv / stamp).touch()
        assert make(tmp_path, "-n", "gpu", "PYTHON=python3.12").split() == bare
    (venv / STAMPS[-1]).touch()
    assert make(tmp_path, "-n", "gpu", "PYTHON=python3.12").splitlines()[-1] == ".venv/bin/python tools/gpu_check.py "
