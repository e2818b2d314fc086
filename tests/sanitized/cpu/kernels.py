"""CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: one program per instruction set."""

import random
from pathlib import Path
from typing import NamedTuple

import torch

from ..build import CATCH_UNDEFINED, SOURCES, TARGET, Recipe
from ..process import Fields, KernelProcess

HERE = SOURCES / "cpu"
Pair = tuple[torch.dtype, torch.dtype]  # of value and point tensors
Piece = tuple[int, ...]

CPP_NAMES = {
    torch.float64: "double", torch.float32: "float", torch.float16: "c10::Half", torch.bfloat16: "c10::BFloat16",
}  # fmt: skip


def ranges(choose: random.Random, length: int) -> list[tuple[int, int]]:
    """Split [0, length) into random ranges (start, end), none of them empty unless `length` is zero."""
    cuts = sorted(choose.sample(range(1, length), choose.randint(0, min(3, length - 1)))) if length > 1 else []
    return list(zip([0, *cuts], [*cuts, length], strict=True))


def slices(choose: random.Random, fields: Fields) -> list[Piece]:
    """Split a backward into random slices, as threads may own them: the members of `Slice` in csrc."""
    pieces = []
    for image in range(fields["batch"]):
        for groups in ranges(choose, fields["groups"]):
            parts = choose.randint(1, fields["most_parts"])
            pieces += [(image, *groups, part, parts) for part in range(parts)]
    return pieces


class CpuKernels(KernelProcess):
    """A process that runs CPU kernels piece by piece, as threads would.

    Args:
        pairs: the dtypes that the program is compiled for; None for all.
        split: the seed for the pieces of a call and their order.
    """

    def __init__(self, executable: Path, pairs: frozenset[Pair] | None = None, split: int = 0) -> None:
        super().__init__(executable)
        self.pairs = pairs
        self.split = split

    def runs(self, value_dtype: torch.dtype, points_dtype: torch.dtype) -> bool:
        """Whether these dtypes are among `pairs`."""
        return self.pairs is None or (value_dtype, points_dtype) in self.pairs

    def vary(self, choose: random.Random) -> str:
        """Choose the split at random."""
        self.split = choose.randint(0, 999)
        return f"split {self.split}"

    def own_fields(self, fields: Fields) -> Fields:
        """The pieces, flattened."""
        choose = random.Random(self.split)
        if fields["direction"] == "forward":
            pieces = ranges(choose, fields["batch"] * fields["outputs"])
        else:
            pieces = slices(choose, fields)
        choose.shuffle(pieces)
        return {"pieces": [number for piece in pieces for number in piece]}


class InstructionSet(NamedTuple):
    """The instruction set and the dtypes that a program is compiled for."""

    name: str  # as in csrc/cpu/isa_*.h
    pairs: frozenset[Pair] | None = None  # None for all

    def __str__(self) -> str:
        return f"sanitized {self.name}" + (" some" if self.pairs else "")

    def recipe(self, csrc: Path, operators: list[str]) -> Recipe:
        """See build.py. Without optimization, which halves the compile time and removes no access."""
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
        """A process of the program that `recipe` builds."""
        return CpuKernels(executable, self.pairs)


def names() -> list[str]:
    """The instruction sets that this machine has and PyTorch uses; of another processor, those of its compiler's default."""
    if TARGET:
        return ["generic"]
    capability = torch.backends.cpu.get_cpu_capability()
    return ["generic", *(["avx2"] if "AVX" in capability else []), *(["avx512"] if "AVX512" in capability else [])]


ALL = [InstructionSet(name) for name in names()]
# In the tests each program has other dtypes, the same for value and points, because compiling all would take a minute.
TESTED = [
    InstructionSet(name, frozenset((dtype, dtype) for dtype in list(CPP_NAMES)[i :: len(names())]))
    for i, name in enumerate(names())
]
