"""Registers, stack frames and spills of every CUDA kernel, as reported by ptxas; needs nvcc, but no GPU.

    python benchmarks/cuda_resources.py --architectures 7.5 8.0 9.0 10.0

Warnings of the compiler and of ptxas, which warns of spills, are errors.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = ("dcnv4", "ms_deform_attn")
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


class Kernel(NamedTuple):
    name: str  # demangled
    registers: int
    stack_bytes: int
    spill_bytes: int

    @property
    def direction(self) -> str:
        return "backward" if "backward_kernel" in self.name else "forward"

    @property
    def vectors(self) -> bool:
        return "_kernel<1," not in self.name


def compile_kernels(operator: str, architecture: str, setup: dict) -> tuple[list[Kernel], float]:
    """Compile an operator for one architecture, such as "9.0"; return the resources of each kernel, and the time in seconds."""
    number = architecture.replace(".", "")
    nvcc = Path(setup["cuda_home"]() or sys.exit("cuda_resources: no CUDA toolkit was found"), "bin", "nvcc")
    includes = [str(ROOT / "csrc"), *include_paths("cuda"), *setup["nvidia_wheel_includes"]()]
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            *(
                str(nvcc),
                "-cubin",
                f"-arch=sm_{number}",
                "-std=c++20",
                "-O3",
                "-Werror",
                "all-warnings",
                "-Xptxas",
                "-v,-Werror",
            ),
            *("--expt-relaxed-constexpr", "--expt-extended-lambda", "-DWITH_CUDA"),
            *(flag for folder in includes for flag in ("-isystem", folder)),
            *("-o", os.path.join(scratch, "kernels.cubin"), str(ROOT / "csrc" / operator / f"{operator}_cuda.cu")),
        ]
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if result.returncode:
        sys.exit(f"cuda_resources: {operator} does not compile for sm_{number}:\n{result.stdout}{result.stderr}")
    return list(read_report(result.stdout + result.stderr)), time.perf_counter() - start


def read_report(report: str) -> Iterator[Kernel]:
    """Parse the output of ``ptxas -v``, in which name, stack frame and registers of each kernel follow one another."""
    name, frame = "", (0, 0, 0)
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            name = subprocess.run(["c++filt", entry[1]], capture_output=True, encoding="utf-8", check=True).stdout.strip()
        elif found := FRAME.search(line):
            frame = tuple(map(int, found.groups()))
        elif (used := REGISTERS.search(line)) and name:
            yield Kernel(name, int(used[1]), frame[0], frame[1] + frame[2])
            name = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=["7.5", "8.0", "9.0", "10.0"], metavar="X.Y")
    parser.add_argument("--all", action="store_true", help="also list every kernel")
    options = parser.parse_args()
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}; warnings as errors\n")
    print("| architecture | operator | pass | access | kernels | registers | stack, bytes | spills, bytes | compiled in |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for architecture in options.architectures:
        for operator in OPERATORS:
            kernels, seconds = compile_kernels(operator, architecture, setup)
            groups = defaultdict(list)
            for kernel in kernels:
                groups[kernel.direction, "16 bytes" if kernel.vectors else "1 channel"].append(kernel)
            for (direction, access), members in sorted(groups.items(), reverse=True):
                registers = [kernel.registers for kernel in members]
                cells = [f"sm_{architecture.replace('.', '')}", operator, direction, access, str(len(members))]
                cells += [f"{min(registers)}–{max(registers)}", str(max(kernel.stack_bytes for kernel in members))]
                cells += [str(max(kernel.spill_bytes for kernel in members)), f"{seconds:.0f} s"]
                print("| " + " | ".join(cells) + " |", flush=True)
            if options.all:
                for kernel in kernels:
                    print(f"    {kernel.registers} registers, {kernel.stack_bytes} + {kernel.spill_bytes} bytes: {kernel.name}")


if __name__ == "__main__":
    main()
