"""CUDA kernels on an emulated GPU: one program per combination of GPU architecture and checks."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from ..build import CATCH_UNDEFINED, SOURCES, Recipe
from ..process import Fields, KernelProcess

HERE = SOURCES / "cuda"
WHOLE_PROGRAM = {"memory": "-fsanitize=address", "accesses": ""}
# Inserts calls before accesses, which accesses.cpp implements.
KERNELS_ONLY = {"memory": "", "accesses": "-fsanitize=thread"}


@dataclass(frozen=True)
class Device:
    """Properties of a GPU. It has so few multiprocessors that even small problems have several units per block."""

    multiprocessors: int = 1
    blocks_per_grid: int = 2**31 - 1


class Emulator(KernelProcess):
    """A process that runs CUDA kernels.

    Args:
        device: the GPU that launches are planned for.
        index_bits: 32 or 64 for the kernels of that index type, 0 for the choice by sizes.
        order: the seed for the order in which threads run.
        blocks: the range (first, end) of the grid's blocks to run.
    """

    writes_unused = True

    def __init__(
        self,
        executable: Path,
        device: Device | None = None,
        index_bits: int = 0,
        order: int = 0,
        blocks: tuple[int, int] = (0, 2**32 - 1),
    ) -> None:
        super().__init__(executable)
        self.device = device or Device()
        self.index_bits = index_bits
        self.order = order
        self.blocks = blocks

    def vary(self, choose: random.Random) -> str:
        """Choose the device, the index type and the order of threads at random."""
        self.device = Device(
            multiprocessors=choose.choice([1, 1, 2, 132]),
            blocks_per_grid=choose.choice([1, 3, 2**31 - 1]),
        )
        self.index_bits = choose.choice([0, 32, 64])
        self.order = choose.randint(0, 99)
        return f"{self.device} {self.index_bits} bits, order {self.order}"

    def own_fields(self, fields: Fields) -> Fields:
        """The fields that operator.cpp reads."""
        first, last = self.blocks
        return asdict(self.device) | {
            "index_bits": self.index_bits, "order": self.order, "first_block": first, "last_block": last,
        }  # fmt: skip


class Variant(NamedTuple):
    """The GPU architecture and the checks that a program is compiled for."""

    architecture: int  # __CUDA_ARCH__: 1000 has vector atomics and products of pairs, 750 has neither
    checks: str  # "memory": AddressSanitizer; "accesses": races and uninitialized reads, see accesses.h

    def __str__(self) -> str:
        return f"emulated sm_{self.architecture // 10} {self.checks}"

    def recipe(self, csrc: Path, operators: list[str]) -> Recipe:
        """See build.py."""
        kernels = f"-O1 -I{HERE / 'include'} -include cuda_runtime.h {CATCH_UNDEFINED} {KERNELS_ONLY[self.checks]}"
        kernels += f" -DCUDA_EMULATOR_ARCHITECTURE={self.architecture}"
        objects = {"accesses": (HERE / "accesses.cpp", "-O2"), "machine": (HERE / "machine.cpp", "-O2")}
        for name in operators:
            points = f"-include {name}/{name}_points_cuda.cuh -DOPERATOR={name}"
            objects[name] = (HERE / "operator.cpp", f"{kernels} {points}")
        return Recipe(flags=WHOLE_PROGRAM[self.checks], objects=objects)

    def start(self, executable: Path) -> Emulator:
        """A process of the program that `recipe` builds."""
        return Emulator(executable)


ALL = [Variant(architecture, checks) for architecture in (750, 1000) for checks in ("memory", "accesses")]
# The programs of the tests: both architectures and both kinds of checks.
VARIANTS = [Variant(1000, "memory"), Variant(750, "accesses")]
