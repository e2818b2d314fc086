"""Builds ``flash_internimage._C`` and lists the folders of the package; everything else is in pyproject.toml.

    pip install --no-build-isolation -e .     # builds against the torch that is installed
    python setup.py build_ext --inplace       # after a change in csrc: incremental

Environment:
    FORCE_CUDA            1: build the CUDA kernels, with or without a GPU, or fail. 0: do not build them. Unset: build them
                          if a GPU is visible; if nothing can compile for it, fail and say what to install.
    TORCH_CUDA_ARCH_LIST  GPU architectures, such as "8.0;9.0+PTX". Unset: those of the GPUs in this machine, or, without
                          one, all that the toolkit supports.
    CUDA_HOME, CC, CXX, MAX_JOBS: as for every PyTorch extension.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from sysconfig import get_platform

from setuptools import find_packages, setup

try:
    import torch
except ImportError as error:
    raise SystemExit(
        f"setup.py: PyTorch cannot be imported ({error}); install it, then build in the same environment with "
        "`pip install --no-build-isolation .`"
    ) from None

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))  # a build front end runs this file without its folder on the path

import cuda_toolkit

# Code for x.0 runs on every later x.y, so one entry per generation serves all of its GPUs, and PTX the coming ones.
GPU_GENERATIONS = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]

LINK_FOLDER = ROOT / "build" / "cuda-runtime"


def find_toolkit() -> str | None:
    """Folder of the CUDA toolkit to build with; None to build the CPU kernels only. Prints which, and why.

    Raises:
        SystemExit: ``FORCE_CUDA`` has another value, or CUDA kernels are wanted and cannot be built.
    """
    forced = os.environ.get("FORCE_CUDA", "")
    if forced not in ("", "0", "1"):
        raise SystemExit(f"setup.py: FORCE_CUDA should be 0, 1 or unset, got {forced!r}")
    if forced == "0" or (forced == "" and not cuda_toolkit.gpu_is_visible()):
        reason = "FORCE_CUDA=0" if forced == "0" else "no GPU is visible (FORCE_CUDA=1 builds the CUDA kernels all the same)"
        print(f"setup.py: building CPU kernels only: {reason}")
        return None
    home, obstacle = cuda_toolkit.find(LINK_FOLDER)
    if obstacle is not None:
        cause = "FORCE_CUDA=1" if forced == "1" else "a GPU is visible"
        raise SystemExit(
            f'setup.py: {cause}, but {obstacle}; install a compiler with `pip install "{cuda_toolkit.requirement()}"`, '
            "or set FORCE_CUDA=0 to build the CPU kernels only"
        )
    print(f"setup.py: building CPU and CUDA kernels, {home}")
    return home


def require_build_tools() -> None:
    """Stop with one sentence if the C++ compiler or ninja is missing."""
    from torch.utils.cpp_extension import get_cxx_compiler, is_ninja_available

    compiler = get_cxx_compiler()
    if shutil.which(compiler) is None:
        raise SystemExit(
            f"setup.py: the C++ compiler {compiler} was not found; install one (g++ or clang++), or name it with CXX"
        )
    if not is_ninja_available():
        raise SystemExit("setup.py: ninja was not found; install it with `pip install ninja`")


def is_clang(compiler: str) -> bool:
    """Whether a C++ compiler is Clang, whatever its name; False if it does not exist."""
    if shutil.which(compiler) is None:
        return False
    command = [compiler, "-dM", "-E", "-x", "c++", os.devnull]
    return "__clang__" in subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout


def default_architectures(home: str) -> str:
    """A TORCH_CUDA_ARCH_LIST that covers every GPU that the toolkit supports."""
    nvcc = os.path.join(home, "bin", "nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, encoding="utf-8", check=True).stdout
    known = [int(number) for number in re.findall(r"compute_(\d+)", listed)]
    names = [f"{major}.{minor}" for major, minor in GPU_GENERATIONS if 10 * major + minor in known]
    return ";".join(names) + "+PTX"


def visible_architectures() -> str:
    """The architectures of the GPUs in this machine, which PyTorch compiles for by default."""
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities)) + "+PTX"


def glob_sources(pattern: str) -> list[str]:
    """Sources in csrc, relative to the repository, as setuptools requires."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(pattern))


def extension_and_command():
    """The extension module and the command that builds it."""
    home = find_toolkit()
    if home is not None:
        os.environ["CUDA_HOME"] = home
        if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
            os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(home)

    # Imported here, because it reads CUDA_HOME on import.
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension, get_cxx_compiler

    cxx = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas"]
    nvcc = ["-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda"]
    macros = [("FLASH_INTERNIMAGE_CUDA_COMPILER", f'"{cuda_toolkit.requirement()}"')]
    if sys.platform == "linux" and is_clang(get_cxx_compiler()):
        # Clang's code would need a second OpenMP runtime, which does not share its threads with libtorch's, that of GCC.
        print("setup.py: compiled by Clang, the CPU kernels run in one thread; CXX=g++ builds them for several")
    elif sys.platform == "linux":
        # Compiled for OpenMP but not linked with it, so that libtorch's runtime is used and no second one is loaded.
        cxx.append("-fopenmp")
    if home is not None:
        macros.append(("WITH_CUDA", None))
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or visible_architectures()
        macros.append(("FLASH_INTERNIMAGE_CUDA_ARCHITECTURES", f'"{architectures.replace(" ", ";")}"'))
        # After the toolkit's own folder, so that a complete toolkit is used as it is.
        for folder in cuda_toolkit.wheel_files("include"):
            cxx += ["-isystem", folder]
            nvcc += ["-isystem", folder]

    class BuildKernels(BuildExtension):
        """Builds incrementally, also if called by pip."""

        def finalize_options(self) -> None:
            super().finalize_options()
            # Ninja decides what is out of date; setuptools would ignore a change of FORCE_CUDA.
            self.force = True
            if self.editable_mode:
                # pip's default is a temporary folder, where everything would be compiled each time.
                self.build_temp = str(ROOT / "build" / f"temp.{get_platform()}-{sys.implementation.cache_tag}")

        def build_extensions(self) -> None:
            require_build_tools()
            super().build_extensions()

    kind = CUDAExtension if home is not None else CppExtension
    extension = kind(
        "flash_internimage._C",
        glob_sources("*.cpp") + (glob_sources("*.cu") if home is not None else []),
        include_dirs=[str(ROOT / "csrc")],
        library_dirs=[str(LINK_FOLDER)] if home is not None else [],
        define_macros=macros,
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        depends=glob_sources("*.h") + glob_sources("*.cuh"),
    )
    return extension, BuildKernels


def package_folders() -> dict[str, str]:
    """Packages whose folder does not follow from their name: {"flash_internimage.projects.dino": "projects/dino/dino", ...}."""
    folders = {}
    for project in sorted((ROOT / "projects").glob("*/")):
        for package in find_packages(str(project)):
            folders[f"flash_internimage.projects.{package}"] = f"projects/{project.name}/{package.replace('.', '/')}"
    for folder in sorted({path.parent.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}):
        name = ".".join(["flash_internimage.model_zoo.configs", *folder.parts])
        folders[name] = str(Path("configs", folder))
    return folders


if __name__ == "__main__":
    extension, command = extension_and_command()
    folders = package_folders()
    setup(
        packages=[*find_packages(include=["flash_internimage", "flash_internimage.*"]), *folders],
        package_dir=folders,
        ext_modules=[extension],
        cmdclass={"build_ext": command},
    )
