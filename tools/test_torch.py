#!/usr/bin/env python3
"""Compile the CPU kernels for another PyTorch and run the operators' tests with it.

    python3.10 tools/test_torch.py 2.6                # in .cache/torch-2.6, with the Python that runs this file
    python3.10 tools/test_torch.py 2.6 -k dcnv4       # what follows the version is passed to pytest

The environment and a copy of the sources are kept there, so that the next run compiles only what has changed. The first
takes several gigabytes and minutes. The docs list the versions that were tested (docs/operators.md).
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["csrc", "flash_internimage", "tests", "tools", "pyproject.toml", "setup.py"]
BUILD_TOOLS = ["ninja", "pybind11", "setuptools", "wheel"]
TEST_TOOLS = ["hypothesis", "numpy", "pytest", "pytest-timeout", "torchvision"]


def run(*command: object, cwd: Path = ROOT, **environment: str) -> int:
    """Print a command and run it; return its exit status."""
    words = [str(word) for word in command]
    print("+", *[f"{name}={value}" for name, value in environment.items()], *words, flush=True)
    return subprocess.run(words, cwd=cwd, env={**os.environ, **environment}, check=False).returncode


def copy_sources(target: Path) -> None:
    """Copy the sources without compiled files, keeping times, so that ninja recompiles only what has changed."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_file():
            shutil.copy2(source, target / name)
            continue
        kept = {path.relative_to(target) for path in (target / name).rglob("*.so")}
        for path in sorted((target / name).rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(target) not in kept and not (ROOT / path.relative_to(target)).exists():
                path.unlink()
        shutil.copytree(
            source,
            target / name,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.so", "manifests", "recipes.json"),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="of torch, such as 2.8 for the newest 2.8.x")
    options, pytest_arguments = parser.parse_known_args()

    folder = ROOT / ".cache" / f"torch-{options.version}"
    environment, copy = folder / "venv", folder / "sources"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    wanted = f"torch=={options.version}" if options.version.count(".") > 1 else f"torch=={options.version}.*"
    if status := run(*pip, wanted, *BUILD_TOOLS, *TEST_TOOLS):
        return status
    copy.mkdir(exist_ok=True)
    copy_sources(copy)
    if status := run(python, "setup.py", "-q", "build_ext", "--inplace", cwd=copy, FORCE_CUDA="0"):
        return status
    about = "import sys, torch; print(f'torch {torch.__version__}, Python {sys.version.split()[0]}')"
    run(python, "-c", about)
    return run(python, "-m", "pytest", "-q", "tests/ops", *pytest_arguments, cwd=copy)


if __name__ == "__main__":
    sys.exit(main())
