"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: a program for each instruction set."""

import random
from pathlib import Path
from typing import NamedTuple

import torch

from ..build import CATCH_UNDEFINED, SOURCES, Recipe
from ..process import Fields, KernelProcess

HERE = SOURCES / "cpu"
Pair = tuple[torch.dtype, torch.dtype]  # of values and points
Piece = tuple[int, ...]

CPP_NAMES = {
    torch.float64: "double", torch.float32: "float", torch.float16: "c10::Half", torch.bfloat16: "c10::BFloat16",
}  # fmt: skip


def ranges(choose: random.Random, length: int) -> list[tuple[int, int]]:
    """[0, length) in one or more parts, each with a start and an end, none empty unless `length` is zero."""
    cuts = sorted(choose.sample(range(1, length), choose.randint(0, min(3, length - 1)))) if length > 1 else []
    return list(zip([0, *cuts], [*cuts, length], strict=True))


def slices(choose: random.Random, fields: Fields) -> list[Piece]:
    """What the threads of a backward may own, all of it together: the members of csrc's Slice."""
    pieces = []
    for image in range(fields["batch"]):
        for groups in ranges(choose, fields["groups"]):
            parts = choose.randint(1, fields["most_parts"])
            pieces += [(image, *groups, part, parts) for part in range(parts)]
    return pieces


class CpuKernels(KernelProcess):
    """A process that runs CPU kernels, piece by piece, as threads would.

    Args:
        pairs: the dtypes that the program is compiled for.
        split: seed of the pieces that a call is made of, and of their order.
    """

    def __init__(self, executable: Path, pairs: frozenset[Pair] | None = None, split: int = 0) -> None:
        super().__init__(executable)
        self.pairs = pairs
        self.split = split

    def runs(self, value_dtype: torch.dtype, points_dtype: torch.dtype) -> bool:
        """Unless it is compiled for others."""
        return self.pairs is None or (value_dtype, points_dtype) in self.pairs

    def vary(self, choose: random.Random) -> str:
        """The split."""
        self.split = choose.randint(0, 999)
        return f"split {self.split}"

    def own_fields(self, fields: Fields) -> Fields:
        """The pieces, one number after the other."""
        choose = random.Random(self.split)
        if fields["direction"] == "forward":
            pieces = ranges(choose, fields["batch"] * fields["outputs"])
        else:
            pieces = slices(choose, fields)
        choose.shuffle(pieces)
        return {"pieces": [number for piece in pieces for number in piece]}


class InstructionSet(NamedTuple):
    """What a program is compiled for."""

    name: str  # as in csrc/cpu/isa_*.h
    pairs: frozenset[Pair] | None = None  # dtypes; None is all of them

    def __str__(self) -> str:
        return f"sanitized {self.name}" + (" some" if self.pairs else "")

    def recipe(self, csrc: Path, operators: list[str]) -> Recipe:
        """As in build.py. Unoptimized, because that compiles in half of the time, and no access is optimized away."""
        kernels = f"-O0 {CATCH_UNDEFINED}"
        if self.pairs:
            dtypes = ", ".join(
                f"Dtypes<{CPP_NAMES[values]}, {CPP_NAMES[points]}, {'double' if values == torch.float64 else 'float'}>"
                for values, points in sorted(self.pairs, key=str)
            )
            kernels += f" -include {HERE / 'some_dtypes.h'} -DSOME_DTYPES='{dtypes}'"
        objects = {"kernels": (csrc / "cpu" / f"kernels_{self.name}.cpp", kernels)}
        for name in operators:
            objects[name] = (HERE / "operator.cpp", f"-O0 -DOPERATOR={name} -DINSTRUCTION_SET={self.name}")
        return Recipe(flags="-fsanitize=address", objects=objects)

    def start(self, executable: Path) -> CpuKernels:
        """A process of the program that `recipe` makes."""
        return CpuKernels(executable, self.pairs)


def names() -> list[str]:
    """The instruction sets that this machine can run, and PyTorch does."""
    capability = torch.backends.cpu.get_cpu_capability()
    return ["generic", *(["avx2"] if "AVX" in capability else []), *(["avx512"] if "AVX512" in capability else [])]


ALL = [InstructionSet(name) for name in names()]
# In the tests each of them has other dtypes, and points have that of values, because compiling all would take a minute.
TESTED = [
    InstructionSet(name, frozenset((dtype, dtype) for dtype in list(CPP_NAMES)[i :: len(names())]))
    for i, name in enumerate(names())
]
