"""Builds the extension ``flash_internimage._C`` and lists the package's folders; the other metadata is in pyproject.toml.

    pip install --no-build-isolation -e .     # builds against the torch that is installed
    python setup.py build_ext --inplace       # after a change in csrc: incremental

Environment:
    FORCE_CUDA            1: build the CUDA kernels or fail. 0: do not build them. Unset: build them if torch is a CUDA
                          build and a working CUDA toolkit is found, with or without a GPU.
    TORCH_CUDA_ARCH_LIST  GPU architectures, such as "8.0;9.0+PTX". Unset: those of the GPUs in this machine, or, without
                          one, all that the toolkit supports.
    CUDA_HOME, CC, CXX, MAX_JOBS: as for every PyTorch extension.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from sysconfig import get_platform

import torch
from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

# Code for x.0 runs on every later x.y, so one entry covers each generation; PTX covers future ones.
GPU_GENERATIONS = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]

# The toolkit headers that PyTorch's CUDA headers include; a partly installed toolkit may lack some.
TOOLKIT_HEADERS = ["cuda_runtime.h", "cublas_v2.h", "cublasLt.h", "cusparse.h", "cusolverDn.h"]


def cuda_home() -> str | None:
    """The CUDA toolkit's folder, or None. ``nvcc`` on the PATH may be a script that calls the real one."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return named
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not os.path.exists(nvcc):
        return None
    plan = subprocess.run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    found = re.search(r"^#\$ _HERE_=(.+)$", plan.stderr, flags=re.MULTILINE)
    return os.path.dirname(found.group(1) if found else os.path.dirname(os.path.realpath(nvcc)))


def version_tuple(text: str) -> tuple[int, ...]:
    """Parse ``"13.0"`` to ``(13, 0)``, so that versions compare as numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def nvidia_wheel_includes() -> list[str]:
    """Include folders of NVIDIA's Python packages, which PyTorch depends on: they complete a partial toolkit."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return sorted(str(path) for folder in folders for path in Path(folder).glob("*/include"))


def cuda_obstacle(home: str | None) -> str | None:
    """The reason why the CUDA sources cannot be compiled on this machine, or None."""
    if torch.version.hip is not None:
        return "torch is a ROCm build, for which there are no kernels"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if home is None:
        return "no CUDA toolkit was found (no nvcc on the PATH, CUDA_HOME is not set)"
    nvcc = os.path.join(home, "bin", "nvcc")
    if not os.path.exists(nvcc):
        return f"{nvcc} does not exist (is CUDA_HOME right?)"
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+\.\d+)", answer)
    if release is None:
        return f"{nvcc} --version does not name a release"
    if version_tuple(release.group(1))[0] != version_tuple(torch.version.cuda)[0]:
        return f"the CUDA toolkit in {home} is {release.group(1)}, but torch was built with {torch.version.cuda}"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe.cu")
        source.write_text("".join(f"#include <{header}>\n" for header in TOOLKIT_HEADERS))
        includes = [flag for folder in nvidia_wheel_includes() for flag in ("-isystem", folder)]
        probe = subprocess.run([nvcc, "-M", *includes, str(source)], capture_output=True, text=True, check=False)
    # nvcc's stderr names the missing header, or says that the host compiler is too new.
    return None if probe.returncode == 0 else f"{nvcc} cannot compile: {probe.stderr.strip()}"


def wants_cuda(home: str | None) -> bool:
    """Decide by FORCE_CUDA and `cuda_obstacle` whether to build the CUDA sources, and print the decision."""
    forced = os.environ.get("FORCE_CUDA", "")
    if forced not in ("", "0", "1"):
        raise SystemExit(f"setup.py: FORCE_CUDA should be 0, 1 or unset, got {forced!r}")
    obstacle = "FORCE_CUDA=0" if forced == "0" else cuda_obstacle(home)
    if forced == "1" and obstacle is not None:
        raise SystemExit(f"setup.py: FORCE_CUDA=1, but {obstacle}")
    print(
        f"setup.py: building CPU kernels only: {obstacle}" if obstacle else f"setup.py: building CPU and CUDA kernels, {home}"
    )
    return obstacle is None


def default_architectures(home: str) -> str:
    """A TORCH_CUDA_ARCH_LIST that covers every GPU that the toolkit supports."""
    nvcc = os.path.join(home, "bin", "nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = [int(number) for number in re.findall(r"compute_(\d+)", listed)]
    names = [f"{major}.{minor}" for major, minor in GPU_GENERATIONS if 10 * major + minor in known]
    return ";".join(names) + "+PTX"


def visible_architectures() -> str:
    """The architectures of the GPUs in this machine, PyTorch's default."""
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities)) + "+PTX"


def glob_sources(pattern: str) -> list[str]:
    """Sources in csrc, relative to the repository, as setuptools requires."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(pattern))


def extension_and_command():
    """The extension module and the command that builds it."""
    home = cuda_home()
    with_cuda = wants_cuda(home)
    if with_cuda:
        os.environ["CUDA_HOME"] = home
        if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
            os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(home)

    # Imported here, because it reads CUDA_HOME on import.
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    cxx = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas"]
    nvcc = ["-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda"]
    macros = []
    if sys.platform == "linux":
        # Compiled for OpenMP but not linked with it, so that libtorch's runtime is used and no second one is loaded.
        cxx.append("-fopenmp")
    if with_cuda:
        macros.append(("WITH_CUDA", None))
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or visible_architectures()
        macros.append(("FLASH_INTERNIMAGE_CUDA_ARCHITECTURES", f'"{architectures.replace(" ", ";")}"'))
        # After the toolkit's own folder, so that its headers take precedence.
        for folder in nvidia_wheel_includes():
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

    kind = CUDAExtension if with_cuda else CppExtension
    extension = kind(
        "flash_internimage._C",
        glob_sources("*.cpp") + (glob_sources("*.cu") if with_cuda else []),
        include_dirs=[str(ROOT / "csrc")],
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
