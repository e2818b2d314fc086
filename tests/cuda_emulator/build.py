"""Compiles the emulator, one program for each pair of GPU architecture and kind of checks, with ninja: once, then what changed.

python -m tests.cuda_emulator.build
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SOURCES = Path(__file__).resolve().parent


class Variant(NamedTuple):
    """What a program is compiled for."""

    architecture: int  # __CUDA_ARCH__: 900 has vector reductions, 750 has not
    checks: str  # "memory": AddressSanitizer; "accesses": races and uninitialised reads, see accesses.h

    def __str__(self) -> str:
        return f"sm_{self.architecture // 10} {self.checks}"


# What no test should have to ask for: both architectures, and both kinds of checks.
VARIANTS = [Variant(900, "memory"), Variant(750, "accesses")]

# Those of -fsanitize=undefined that kernels can meet; the rest would double the time to compile.
UNDEFINED = "alignment,bounds,bool,float-cast-overflow,integer-divide-by-zero,pointer-overflow,shift,signed-integer-overflow"
WHOLE_PROGRAM = {"memory": "-fsanitize=address", "accesses": ""}
# Only asks for calls before accesses, which accesses.cpp answers.
KERNELS_ONLY = {"memory": "", "accesses": "-fsanitize=thread"}

OPERATORS = ["dcnv4", "ms_deform_attn"]
HOST = ["accesses", "machine", "main", "request"]


def obstacle() -> str | None:
    """Why the emulator cannot be built here, or None."""
    compiler = os.environ.get("CXX", "g++")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"the emulator is for Linux on x86-64 and AArch64, this is {sys.platform} on {platform.machine()}"
    for tool in (compiler, "ninja"):
        if shutil.which(tool) is None:
            return f"{tool} was not found"
    return None


def ninja_file(variant: Variant, csrc: Path, operators: list[str]) -> str:
    """Rules for one program, whose kernels come from the folder `csrc`."""
    compiler = os.environ.get("CXX", "g++")
    includes = [SOURCES / "include", csrc]
    torch_includes = Path(torch.__file__).parent / "include"
    flags = [
        "-std=c++20 -g1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unused-parameter -Wno-unknown-pragmas -Werror",
        f"-DCUDA_EMULATOR_ARCHITECTURE={variant.architecture}",
        *(f"-I{folder}" for folder in includes),
        f"-isystem {torch_includes}",
        WHOLE_PROGRAM[variant.checks],
    ]
    sanitizers = f"-fsanitize={UNDEFINED} -fno-sanitize-recover=all {KERNELS_ONLY[variant.checks]}"
    lines = [
        f"flags = {' '.join(flags)}",
        "rule compile",
        f"  command = {compiler} -MMD -MF $out.d $flags $more -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -fsanitize=undefined {WHOLE_PROGRAM[variant.checks]} $in -o $out",
    ]
    for name in operators + HOST:
        lines.append(f"build {name}.o: compile {SOURCES / name}.cpp")
        lines.append(f"  more = {f'-O1 -include cuda_runtime.h {sanitizers}' if name in operators else '-O2'}")
    lines.append(f"build emulator: link {' '.join(f'{name}.o' for name in operators + HOST)}")
    return "\n".join(lines) + "\n"


def build(
    variant: Variant,
    csrc: Path = REPOSITORY / "csrc",
    folder: Path = REPOSITORY / "build" / "cuda_emulator",
    operators: list[str] = OPERATORS,
) -> Path:
    """The program, compiled if anything that it depends on has changed.

    Args:
        csrc: the folder of the kernels' sources.
        folder: where to build.
        operators: those that the program can run.

    Raises:
        RuntimeError: a source does not compile; the message is the compiler's.
    """
    folder = folder / str(variant).replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # against another run of the tests
        (folder / "build.ninja").write_text(ninja_file(variant, csrc, operators))
        built = subprocess.run(["ninja", "-C", folder, "-j", jobs], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise RuntimeError(f"the CUDA emulator for {variant} does not compile:\n{built.stdout}{built.stderr}")
    return folder / "emulator"


if __name__ == "__main__":
    for variant in VARIANTS:
        print(build(variant))
