"""Environments with another PyTorch, in .cache/torch-VERSION-pythonVERSION, and copies of the sources to compile there."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["csrc", "flash_internimage", "tests", "tools", "pyproject.toml", "setup.py"]
PACKAGES = [
    *("ninja", "pybind11", "setuptools", "wheel"),  # to build
    *("hypothesis", "numpy", "pytest", "pytest-timeout", "torchvision"),  # to test
    *("huggingface_hub", "iopath"),  # imported by flash_internimage.backbones, which some of the tests use
]
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.so", "manifests", "recipes.json")


def run(*command: object, cwd: Path = ROOT, **environment: str) -> None:
    """Print a command and run it; end the program with its exit status if it fails."""
    words = [str(word) for word in command]
    print("+", *[f"{name}={value}" for name, value in environment.items()], *words, flush=True)
    status = subprocess.run(words, cwd=cwd, env={**os.environ, **environment}, check=False).returncode
    if status:
        sys.exit(status)


def folder(version: str) -> Path:
    """The folder for a PyTorch and the running Python, which compiled files depend on."""
    major, minor = sys.version_info[:2]
    return ROOT / ".cache" / f"torch-{version}-python{major}.{minor}"


def python_with_torch(version: str) -> Path:
    """Return the interpreter of an environment with this PyTorch; create it with the running Python if it does not exist.

    Args:
        version: such as 2.8, for the newest 2.8.x.
    """
    environment = folder(version) / "venv"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    wanted = f"torch=={version}" if version.count(".") > 1 else f"torch=={version}.*"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", wanted, *PACKAGES)
    return python


def native_digest(root: Path) -> str:
    """A hash of the kernels' sources, to recognize an extension that was compiled from others."""
    digest = hashlib.sha256()
    for path in sorted((root / "csrc").rglob("*")):
        if path.suffix in {".cpp", ".cu", ".cuh", ".h"}:
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def copy_sources(target: Path) -> None:
    """Copy what is compiled and tested, keeping times, so that ninja recompiles only what has changed."""
    target.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_file():
            shutil.copy2(source, target / name)
            continue
        for path in [] if not (target / name).exists() else sorted((target / name).rglob("*")):
            if path.is_file() and path.suffix != ".so" and not (ROOT / path.relative_to(target)).exists():
                path.unlink()  # removed from the checkout since the last copy
        shutil.copytree(source, target / name, dirs_exist_ok=True, ignore=NOT_COPIED)


def build_extension(python: Path, sources: Path, **environment: str) -> Path:
    """Compile the extension in a copy of the sources; return its path."""
    run(python, "setup.py", "-q", "build_ext", "--inplace", cwd=sources, **environment)
    (extension,) = (sources / "flash_internimage").glob("_C*.so")
    return extension
