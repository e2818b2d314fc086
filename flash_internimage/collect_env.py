"""Collects the versions and build flags for a bug report: ``flash-internimage env`` prints them.

Works without the compiled extension, detectron2 or a GPU, and reports them as missing.
"""

import importlib
import importlib.metadata
import os
import platform
import sys

import torch

import flash_internimage

_PACKAGES = (
    "torchvision",
    "numpy",
    "Pillow",
    "fvcore",
    "iopath",
    "omegaconf",
    "pycocotools",
    "hotcoco",
    "safetensors",
    "huggingface_hub",
)


def collect_env() -> dict[str, str]:
    """Return the versions, build flags and hardware by name, in the order in which they are printed."""
    return {
        "flash_internimage": f"{flash_internimage.__version__} in {os.path.dirname(flash_internimage.__file__)}",
        "Python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch built for CUDA": torch.version.cuda or "no",
        "detectron2": _detectron2(),
        **{package: _version(package) for package in _PACKAGES},
        **_extension(),
        "CPU threads": str(torch.get_num_threads()),
        "GPUs": _gpus(),
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", "not set"),
        "DETECTRON2_DATASETS": os.environ.get("DETECTRON2_DATASETS", "not set (./datasets)"),
    }


def format_table(rows: dict[str, str]) -> str:
    """Format names and values as two aligned columns, one row per line."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _detectron2() -> str:
    try:
        module = importlib.import_module("detectron2")
    except ImportError as error:
        return f"cannot be imported: {error}"
    return f"{module.__version__} in {os.path.dirname(str(module.__file__))}"


def _extension() -> dict[str, str]:
    """Return the build flags of ``flash_internimage._C``, or the reason why it cannot be imported."""
    try:
        module = importlib.import_module("flash_internimage._C")
    except ImportError as error:
        return {
            "extension": f"cannot be imported: {error}",
            "CPU instruction set": f"{torch.backends.cpu.get_cpu_capability()} (PyTorch's)",
            "CUDA kernels": "unknown",
        }
    info = module.build_info()
    cuda = f"built with CUDA {info['cuda_version']} for {info['cuda_architectures']}" if info["cuda"] else "not built"
    return {
        "extension": str(module.__file__),
        "extension built for torch": info["torch_version"],
        "compiler": info["compiler"],
        "OpenMP": "yes" if info["openmp"] else "no",
        "CPU instruction set": info["cpu_capability"],
        "CUDA kernels": cuda,
    }


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{each.name} (compute capability {each.major}.{each.minor})" for each in properties)
