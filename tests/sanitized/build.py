"""Compiles the programs with ninja, incrementally.

python -m tests.sanitized.build      # the programs that the tests use
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CSRC = REPOSITORY / "csrc"
SOURCES = Path(__file__).resolve().parent
OPERATORS = ["dcnv4", "ms_deform_attn"]

# Another processor, such as aarch64: programs are compiled by its cross compiler and run under qemu-user.
TARGET = os.environ.get("SANITIZED_TARGET", "")
COMPILER = f"{TARGET}-linux-gnu-g++" if TARGET else os.environ.get("CXX", "g++")
RUNNER = [f"qemu-{TARGET}", "-L", f"/usr/{TARGET}-linux-gnu"] if TARGET else []
PROGRAMS = REPOSITORY / "build" / ("sanitized" + (f"-{TARGET}" if TARGET else ""))

# The checks of -fsanitize=undefined that apply to kernels; the others would double the compile time.
UNDEFINED = "alignment,bounds,bool,float-cast-overflow,integer-divide-by-zero,pointer-overflow,shift,signed-integer-overflow"
CATCH_UNDEFINED = f"-fsanitize={UNDEFINED} -fno-sanitize-recover=all"


class Recipe(NamedTuple):
    """The parts of a program's build that depend on its variant."""

    flags: str  # for every source, and for linking
    objects: dict[str, tuple[Path, str]]  # in addition to SHARED_OBJECTS: the source of each object and its own flags


class Variant(Protocol):
    """Target of a program: processor or GPU, and checks. Its string names it in tests, and its build folder."""

    def recipe(self, csrc: Path, operators: list[str]) -> Recipe:
        """The build of kernels from the folder `csrc`, for a program that can run `operators`."""


SHARED_OBJECTS = {name: (SOURCES / f"{name}.cpp", "-O1") for name in ("main", "request")}


def obstacle() -> str | None:
    """The reason why programs cannot be built on this machine, or None."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"kernels under sanitizers are for Linux on x86-64 and AArch64, this is {sys.platform} on {platform.machine()}"
    for tool in (COMPILER, "ninja", *RUNNER[:1]):
        if shutil.which(tool) is None:
            return f"{tool} was not found"
    return None


def ninja_file(recipe: Recipe, csrc: Path) -> str:
    """The contents of build.ninja for one program."""
    torch_includes = Path(torch.__file__).parent / "include"
    flags = [
        "-std=c++20 -g1 -fno-omit-frame-pointer -Wall -Wextra -Wno-unused-parameter -Wno-unknown-pragmas -Werror",
        recipe.flags,
        f"-I{SOURCES} -I{csrc} -isystem {torch_includes}",
    ]
    lines = [
        f"flags = {' '.join(flags)}",
        "rule compile",
        f"  command = {COMPILER} -MMD -MF $out.d $more $flags -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {COMPILER} -fsanitize=undefined {recipe.flags} $in -o $out",
    ]
    objects = recipe.objects | SHARED_OBJECTS
    for name, (source, more) in objects.items():
        lines += [f"build {name}.o: compile {source}", f"  more = {more}"]
    lines.append(f"build program: link {' '.join(f'{name}.o' for name in objects)}")
    return "\n".join(lines) + "\n"


def program_in(folder: Path, variant: Variant) -> Path:
    """The path of a program in the folder of all programs."""
    return folder / str(variant).replace(" ", "_") / "program"


def build(
    variant: Variant,
    csrc: Path = CSRC,
    folder: Path = PROGRAMS,
    operators: list[str] = OPERATORS,
) -> Path:
    """Return the path of a program, after compiling what has changed.

    Args:
        csrc: the folder of the kernels' sources.
        folder: each variant is built in a subfolder of this.
        operators: the operators that the program can run.

    Raises:
        RuntimeError: a source does not compile; the message is the compiler's.
    """
    program = program_in(folder, variant)
    folder = program.parent
    folder.mkdir(parents=True, exist_ok=True)
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run in several processes
        (folder / "build.ninja").write_text(ninja_file(variant.recipe(csrc, operators), csrc))
        built = subprocess.run(["ninja", "-C", folder, "-j", jobs], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise RuntimeError(f"the program {variant} does not compile:\n{built.stdout}{built.stderr}")
    return program


def executable(variant: Variant) -> Path:
    """The path of a program: from the folder SANITIZED_PROGRAMS if that is set (by mutants.py), otherwise built."""
    others = os.environ.get("SANITIZED_PROGRAMS")
    return program_in(Path(others), variant) if others else build(variant)


if __name__ == "__main__":
    from .cpu.kernels import TESTED
    from .cuda.emulator import VARIANTS

    for each in [*TESTED, *VARIANTS]:
        print(build(each))
