"""Finds a CUDA toolkit that can compile and link extensions of the installed PyTorch.

    python tools/cuda_toolkit.py    # prints what to install, if a GPU is visible and nothing can compile for it

Looked for in this order: ``CUDA_HOME`` or ``CUDA_PATH``, ``nvcc`` on the PATH, ``/usr/local/cuda``, and NVIDIA's Python
packages: ``pip install "cuda-toolkit[nvcc,cccl]==13.0.*"`` puts a complete compiler into ``site-packages/nvidia/cu13``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

# What PyTorch's CUDA headers include from the toolkit; a toolkit installed in parts may lack some.
HEADERS = ("cuda_runtime.h", "cublas_v2.h", "cublasLt.h", "cusparse.h", "cusolverDn.h")


def candidates() -> Iterator[str]:
    """Folders in which a toolkit may be, best first. A folder named in the environment is the only candidate."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        yield named
        return
    for nvcc in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", *wheel_files("bin/nvcc")):
        if nvcc and os.path.exists(nvcc):
            yield home_of(nvcc)


def home_of(nvcc: str) -> str:
    """The toolkit's folder. ``nvcc`` may be a script that calls the real one, so it is asked."""
    plan = subprocess.run(
        [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    found = re.search(r"^#\$ _HERE_=(.+)$", plan.stderr, flags=re.MULTILINE)
    return os.path.dirname(found.group(1) if found else os.path.dirname(os.path.realpath(nvcc)))


def wheel_files(pattern: str) -> list[str]:
    """Files or folders of NVIDIA's Python packages that match ``pattern``, such as ``bin/nvcc`` or ``include``."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return sorted(str(path) for folder in folders for path in Path(folder).glob(f"*/{pattern}"))


def version_tuple(text: str) -> tuple[int, ...]:
    """``"13.0"`` -> ``(13, 0)``, so that versions compare as numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def link_cudart(folder: Path) -> list[str]:
    """Library folders for the linker: one with a ``libcudart.so``, made in ``folder``.

    NVIDIA's Python packages carry ``libcudart.so.13`` alone, without the name that the linker looks for.
    """
    libraries = wheel_files("lib/libcudart.so.*")
    if not libraries:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "libcudart.so"
    link.unlink(missing_ok=True)
    link.symlink_to(libraries[-1])
    return [str(folder)]


def obstacle(home: str, link_folder: Path) -> str | None:
    """Why the toolkit in ``home`` cannot build CUDA extensions of this PyTorch; None if it can."""
    nvcc = os.path.join(home, "bin", "nvcc")
    if not os.path.exists(nvcc):
        return f"{nvcc} does not exist (is CUDA_HOME right?)"
    answer = subprocess.run([nvcc, "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False).stdout
    release = re.search(r"release (\d+\.\d+)", answer)
    if release is None:
        return f"{nvcc} --version does not name a release"
    if version_tuple(release.group(1))[0] != version_tuple(str(torch.version.cuda))[0]:
        return f"the CUDA toolkit in {home} is {release.group(1)}, but torch was built with {torch.version.cuda}"
    includes = [flag for path in wheel_files("include") for flag in ("-isystem", path)]
    folders = [*link_cudart(link_folder), *(os.path.join(home, name) for name in ("lib64", "lib"))]
    libraries = [f"-L{folder}" for folder in folders]
    with tempfile.TemporaryDirectory() as scratch:
        headers = Path(scratch, "headers.cu")
        headers.write_text("".join(f"#include <{header}>\n" for header in HEADERS), encoding="utf-8")
        program = Path(scratch, "program.cu")
        program.write_text("__global__ void kernel() {}\n", encoding="utf-8")
        shared = ["-shared", "-Xcompiler", "-fPIC", "-cudart", "shared", "-o", os.path.join(scratch, "program.so")]
        for arguments in (["-M", *includes, str(headers)], [*shared, *includes, *libraries, str(program)]):
            probe = subprocess.run([nvcc, *arguments], capture_output=True, encoding="utf-8", errors="replace", check=False)
            if probe.returncode != 0:  # nvcc's stderr names the missing header or library, or a host compiler too new for it
                return f"{nvcc} cannot compile and link: {probe.stderr.strip()}"
    return None


def find(link_folder: Path) -> tuple[str | None, str | None]:
    """The first toolkit that can build CUDA extensions of this PyTorch.

    Args:
        link_folder: where a link to the CUDA runtime may be made, see :func:`link_cudart`.

    Returns:
        Its folder and None; or None and the reason why the first candidate cannot.
    """
    if torch.version.hip is not None:
        return None, "torch is a ROCm build, for which there are no kernels"
    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} is not a CUDA build"
    reasons = []
    for home in candidates():
        reason = obstacle(home, link_folder)
        if reason is None:
            return home, None
        reasons.append(reason)
    return None, reasons[0] if reasons else "no CUDA compiler was found (no nvcc on the PATH, CUDA_HOME is not set)"


def gpu_is_visible() -> bool:
    """Whether this PyTorch is a CUDA build that sees a GPU."""
    return torch.version.cuda is not None and torch.cuda.is_available()


def requirement() -> str:
    """The package, for pip, that brings a compiler for this PyTorch's CUDA version."""
    version = f"=={torch.version.cuda}.*" if torch.version.cuda else ""
    return f"cuda-toolkit[nvcc,cccl]{version}"


if __name__ == "__main__":
    if gpu_is_visible():
        with tempfile.TemporaryDirectory() as scratch:
            home, _ = find(Path(scratch))
        if home is None:
            print(requirement())
