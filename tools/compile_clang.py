#!/usr/bin/env python3
"""Check that Clang compiles the CPU part of csrc without warnings; nothing is kept.

    python tools/compile_clang.py clang++-14

The kernels are compiled without optimization, because only code generation checks that a function may use the instructions of
its set. Of the other files, which include PyTorch's large headers, only syntax and types are checked.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parent.parent
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-unknown-pragmas"]  # as in setup.py
MACROS = ['-DFLASH_INTERNIMAGE_CUDA_COMPILER=""', "-DTORCH_EXTENSION_NAME=_C"]


def main() -> int:
    compiler = sys.argv[1] if len(sys.argv) > 1 else "clang++"
    folders = [*include_paths(), sysconfig.get_path("include")]
    flags = ["-std=c++20", *WARNINGS, *MACROS, f"-I{ROOT / 'csrc'}", *(f"-isystem{folder}" for folder in folders)]
    failed = 0
    for source in sorted((ROOT / "csrc").rglob("*.cpp")):
        is_kernel = source.name.startswith("kernels_")
        mode = ["-O0", "-fPIC", "-c", "-o", "/dev/null"] if is_kernel else ["-fsyntax-only"]
        print("+", compiler, *mode, source.relative_to(ROOT), flush=True)
        failed += subprocess.run([compiler, *mode, *flags, str(source)], check=False).returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
