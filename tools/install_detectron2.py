#!/usr/bin/env python3
"""Installs detectron2 0.6 as a pure-Python wheel, unless the environment has a detectron2 already.

The release's Python sources come from PyPI (the sdist ``pb1-detectron2`` 0.6, whose Python tree and packaged configs equal
those of the official tag v0.6), pinned by hash. ``tools/detectron2_patches.py`` lists what is changed in them and why. A
detectron2 that can be found already, of whatever version, is used as it is and never replaced.

    python tools/install_detectron2.py                  # install where it is missing
    python tools/install_detectron2.py --wheel-dir dist # only build the wheel

torch, setuptools and wheel have to be installed first: the sdist's setup.py imports them.
"""

import argparse
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from detectron2_patches import PATCHS, Patch

SDIST = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"


def patch_text(text: str, patch: Patch) -> str:
    """The text with one patch applied.

    Raises:
        ValueError: ``patch.old`` occurs more or less often than ``patch.count``.
    """
    found = text.count(patch.old)
    if found != patch.count:
        raise ValueError(
            f"install_detectron2: {patch.file} should contain {patch.old!r} {patch.count} time(s), found {found}: these are "
            f"not the sources that the patches were written for ({SDIST})"
        )
    return text.replace(patch.old, patch.new)


def apply_patches(tree: Path, patches: Iterable[Patch]) -> None:
    """Apply the patches to an unpacked source tree, in order.

    Raises:
        ValueError: a file to change is missing, a file to add is there already, or a text occurs too often or too rarely.
    """
    for patch in patches:
        path = tree / patch.file
        if not patch.old:
            if path.exists():
                raise ValueError(f"install_detectron2: {patch.file} should be new, but the sources contain it")
            path.write_text(patch.new, encoding="utf-8")
            continue
        if not path.is_file():
            raise ValueError(f"install_detectron2: the sources have no file {patch.file} to patch")
        path.write_text(patch_text(path.read_text(encoding="utf-8"), patch), encoding="utf-8")


def run_pip(*arguments: str) -> None:
    """Run this interpreter's pip, after printing the command."""
    print("+ pip", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def download_sources(folder: Path) -> Path:
    """Download and unpack the sdist inside a folder; pip compares its hash before anything of it is run."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    run_pip(
        "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", str(folder), "-r", str(requirement)
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        # Python below 3.10.12 and 3.11.4 knows no filter; the hash has vouched for the archive.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder / archive.name.removesuffix(".tar.gz")


def build_wheel(wheel_dir: Path) -> Path:
    """Build the patched wheel in ``wheel_dir`` and return its path."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as scratch:
        tree = download_sources(Path(scratch))
        apply_patches(tree, PATCHS)
        run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheel_dir), str(tree))
    (wheel,) = wheel_dir.glob("detectron2-0.6-py3-none-any.whl")
    return wheel


def existing_detectron2() -> str | None:
    """Folder of the detectron2 that this interpreter would import, without importing it; None where there is none."""
    spec = importlib.util.find_spec("detectron2")
    # A namespace package (a stray folder called detectron2) has no origin.
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel-dir", type=Path, help="only build the wheel and leave it in this folder")
    arguments = parser.parse_args()
    if arguments.wheel_dir is not None:
        print(f"built {build_wheel(arguments.wheel_dir)}")
        return
    present = existing_detectron2()
    if present is not None:
        print(f"detectron2 is in {present} already and is left as it is")
        return
    with tempfile.TemporaryDirectory(prefix="detectron2-wheel-") as wheel_dir:
        run_pip("install", str(build_wheel(Path(wheel_dir))))


if __name__ == "__main__":
    main()
