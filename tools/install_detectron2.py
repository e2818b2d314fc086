#!/usr/bin/env python3
"""Install detectron2 0.6 as a pure-Python wheel, unless a detectron2 is already installed.

The Python sources come from PyPI, pinned by hash: the sdist ``pb1-detectron2`` 0.6, whose Python files and configs are those
of the official tag v0.6. ``tools/detectron2_patches.py`` lists the patches that are applied to them. An installed detectron2
of any version is never replaced.

    python tools/install_detectron2.py                  # install if missing
    python tools/install_detectron2.py --wheel-dir dist # only build the wheel

torch, setuptools and wheel must be installed first: the sdist's setup.py imports them.
"""

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from detectron2_patches import PATCHES, Patch

SDIST = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


def patch_text(text: str, patch: Patch) -> str:
    """Apply one patch to a text.

    Raises:
        ValueError: ``patch.old`` does not occur exactly ``patch.count`` times.
    """
    found = text.count(patch.old)
    if found != patch.count:
        raise ValueError(
            f"install_detectron2: {patch.file} should contain {patch.old!r} {patch.count} time(s), found {found}: these are "
            f"not the sources that the patches were written for ({SDIST})"
        )
    return text.replace(patch.old, patch.new)


def apply_patches(tree: Path, patches: Iterable[Patch]) -> None:
    """Apply patches to an unpacked source tree, in order.

    Raises:
        ValueError: a file to patch is missing, a file to add already exists, or a text does not occur as often as expected.
    """
    for patch in patches:
        path = tree / patch.file
        if not patch.old:
            if path.exists():
                raise ValueError(f"install_detectron2: {patch.file} should be new, but already exists in the sources")
            path.write_text(patch.new, encoding="utf-8")
            continue
        if not path.is_file():
            raise ValueError(f"install_detectron2: the sources have no file {patch.file} to patch")
        path.write_text(patch_text(path.read_text(encoding="utf-8"), patch), encoding="utf-8")


def run_pip(*arguments: str) -> None:
    """Print a pip command and run it with this interpreter."""
    print("+ pip", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def download_sources(folder: Path) -> Path:
    """Download the sdist into a folder and unpack it there; pip verifies the hash before it runs any of the sdist's code."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    run_pip(
        "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder), "-r", str(requirement)
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        # Python before 3.10.12 and 3.11.4 has no extraction filters; the archive is trusted, since its hash was verified.
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)
    return folder / archive.name.removesuffix(".tar.gz")


def build_wheel(wheel_dir: Path) -> Path:
    """Build the patched wheel in a folder and return its path."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as scratch:
        tree = download_sources(Path(scratch))
        apply_patches(tree, PATCHES)
        run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheel_dir), str(tree))
    (wheel,) = wheel_dir.glob("detectron2-0.6-py3-none-any.whl")
    return wheel


def existing_detectron2() -> str | None:
    """Return the folder of the installed detectron2 without importing it; None if there is none."""
    spec = importlib.util.find_spec("detectron2")
    # A namespace package (a stray folder called detectron2) has no origin.
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel-dir", type=Path, help="only build the wheel, in this folder")
    arguments = parser.parse_args()
    if arguments.wheel_dir is not None:
        print(f"built {build_wheel(arguments.wheel_dir)}")
        return
    present = existing_detectron2()
    if present is not None:
        print(f"detectron2 is already installed in {present} and is not replaced")
        return
    with tempfile.TemporaryDirectory(prefix="detectron2-wheel-") as wheel_dir:
        run_pip("install", str(build_wheel(Path(wheel_dir))))


if __name__ == "__main__":
    main()
