"""Instructions, registers and memory accesses of the CUDA kernels, beside PyPI's DCNv4 1.0.0.post2; needs nvcc, but no GPU.

    python benchmarks/cuda_resources.py --architectures 7.5 8.0 9.0 10.0 12.0 > benchmarks/results/cuda_resources.md
    python benchmarks/cuda_resources.py --peer DCNv4-1.0.0.post2/src/cuda        # the unpacked source distribution

The kernels are those of the published models: DCNv4 with 3 x 3 points of 16 channels, attention with 4 levels x 4 points of
32. Warnings of the compiler and of ptxas, which warns of spills, are errors.

The code of one thread is counted: each instruction times the trips of the loops around it, with all points inside the feature
map, and both sides of each branch. "Instructions" are those of all lanes of one unit: a group of channels of one output.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import cuda_toolkit  # noqa: E402 - from the line above

ENTRY = re.compile(r"Compiling entry function '(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
# The address of an instruction, its condition, its name and its operands, in the output of cuobjdump.
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
ACCESS = re.compile(r"^(LDG|STG|REDG|RED)\b")
BYTES = {".U8": 1, ".S8": 1, ".U16": 2, ".S16": 2, ".64": 8, ".128": 16, "32x4": 16}
# By compute capability, CUDA programming guide: threads and blocks of a multiprocessor. All have 65,536 registers.
MULTIPROCESSORS = {"7.5": (1024, 16), "8.0": (2048, 32), "9.0": (2048, 32), "10.0": (2048, 32), "12.0": (1536, 24)}

OURS = """
#include "core/dtypes.h"
#include "dcnv4/dcnv4_points_cuda.cuh"
#include "ms_deform_attn/ms_deform_attn_points_cuda.cuh"
namespace flash_internimage::cuda {
template <typename op_t, typename value_t>
using problem_t = Problem<op_t, Dtypes<value_t, value_t, float>, int32_t>;
void* kernels[] = {%s};
}
"""
# Stand-ins for headers that the peer includes, and that newer versions of PyTorch lack or that take long to compile.
PEER_HEADERS = {
    "ATen/ATen.h": "#include <ATen/OpMathType.h>\n#include <stdexcept>\n#define AT_ASSERTM(...)\n",
    "ATen/cuda/CUDAContext.h": "",
    "THC/THCAtomics.cuh": "",
}
PEER = '#include <cuda_fp16.h>\n#include "dcnv4_im2col_cuda.cuh"\n#include "dcnv4_col2im_cuda.cuh"\nvoid* kernels[] = {%s};\n'


class Kernel(NamedTuple):
    """A kernel to count, and how it runs."""

    label: str
    direction: str
    dtype: str
    address: str  # a C++ expression
    lanes: int  # threads of one unit
    channels: int  # of one unit
    threads: int  # of a block
    trips: tuple[int | float, ...]  # of the loops over points, from the innermost one
    samples_per_trip: int  # of the innermost loop, unless its last trip has fewer
    points: int


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str

    @property
    def access_bytes(self) -> int:
        """Bytes of an access to memory by one thread."""
        return next((size for suffix, size in BYTES.items() if suffix in self.name), 4)


@dataclass
class Counts:
    registers: int
    spill_bytes: int
    instructions: list[Instruction]

    def loops(self) -> list[tuple[int, int]]:
        """First and last address of each loop, from the shortest."""
        # Blocks for diverged warps lie behind the last exit, and jump back.
        last_exit = max(i.address for i in self.instructions if i.name == "EXIT")
        diverged = [i.address for i in self.instructions if i.name.startswith("WARPSYNC") and i.address > last_exit]
        end = min(diverged, default=self.instructions[-1].address + 1)
        ends = {}
        for instruction in self.instructions:
            target = re.search(r"0x([0-9a-f]+)", instruction.operands) if instruction.name.startswith("BRA") else None
            if target and int(target[1], 16) < instruction.address < end:
                start = int(target[1], 16)
                ends[start] = max(ends.get(start, 0), instruction.address)
        return sorted(ends.items(), key=lambda loop: loop[1] - loop[0])

    def inside(self, loop: tuple[int, int]) -> list[Instruction]:
        return [instruction for instruction in self.instructions if loop[0] <= instruction.address <= loop[1]]

    def named(self, *prefixes: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.name.startswith(prefixes)]

    def sample_loads(self) -> list[Instruction]:
        """Return the widest reads of values in the shortest loop with four or more; if the read-only path is used, only its."""
        for loop in self.loops():
            loads = [instruction for instruction in self.inside(loop) if instruction.name.startswith("LDG")]
            if constant := [load for load in loads if "CONSTANT" in load.name]:
                loads = constant
            widest = max((load.access_bytes for load in loads), default=0)
            loads = [load for load in loads if load.access_bytes == widest]
            if len(loads) >= 4:
                return loads
        return []

    def executed(self, kernel: Kernel) -> float:
        """Instructions that one thread executes for one unit."""
        point_loops, shuffle_loops = [], []
        for loop in self.loops():
            names = {instruction.name.split(".")[0] for instruction in self.inside(loop)}
            if "LDG" in names and names & {"F2I", "SHFL"}:
                point_loops.append(loop)
            elif "SHFL" in names and "STG" not in names:
                shuffle_loops.append(loop)
        trips = dict.fromkeys(shuffle_loops, kernel.lanes.bit_length() - 1)
        # Further loops beside the innermost one are for other settings.
        start, end = point_loops[0]
        trips |= {loop: 0 for loop in point_loops if loop[0] > end or loop[1] < start}
        around = [loop for loop in point_loops if loop[0] <= start and loop[1] >= end]
        trips |= dict(zip(around, kernel.trips, strict=False))
        total = 0.0
        for instruction in self.instructions:
            times = 1.0
            for (start, end), count in trips.items():
                times *= count if start <= instruction.address <= end else 1
            total += times
        # An unrolled loop leaves its last trip early if it has no further points.
        missing = kernel.trips[0] * kernel.samples_per_trip - kernel.points if kernel.samples_per_trip > 1 else 0
        if missing > 0:
            loads = self.sample_loads()
            per_sample = len(loads) // kernel.samples_per_trip
            total -= missing * (loads[per_sample].address - loads[0].address) // 16
        return total

    def loads_in_flight(self) -> int:
        """Reads of values before the first use of one of them."""
        loads = self.sample_loads()
        if not loads:
            return 0
        registers, count = set(), 0
        for instruction in self.inside((loads[0].address, self.instructions[-1].address)):
            if instruction in loads:
                first = int(re.match(r"R(\d+)", instruction.operands)[1])
                registers |= {f"R{first + i}" for i in range(max(1, instruction.access_bytes // 4))}
                count += 1
            elif registers & set(re.findall(r"\bR\d+\b", instruction.operands)):
                break
        return count

    def row(self, kernel: Kernel, architecture: str) -> list[str]:
        threads, blocks = MULTIPROCESSORS[architecture]
        registers_per_warp = -(-self.registers * 32 // 256) * 256
        resident = min(65536 // registers_per_warp // (kernel.threads // 32), threads // kernel.threads, blocks)
        loads, stores = self.sample_loads(), self.named("STG")
        additions = self.named("RED")
        sector = min(32, additions[0].access_bytes * kernel.lanes) if additions else 0
        return [
            f"sm_{architecture.replace('.', '')}", kernel.label, kernel.direction, kernel.dtype,
            str(self.registers), f"{100 * resident * kernel.threads // threads} %",
            f"{self.executed(kernel) * kernel.lanes:.0f}", str(self.loads_in_flight()),
            f"{max((load.access_bytes for load in loads), default=0)}",
            f"{max((store.access_bytes for store in stores), default=0)}",
            f"{kernel.channels * 4 // sector} of {sector}" if sector else "",
            str(self.spill_bytes),
        ]  # fmt: skip


HEADER = [
    "architecture", "kernel", "pass", "dtype", "registers", "occupancy", "instructions", "loads in flight",
    "bytes per load", "bytes per store", "packets per corner, bytes", "spills, bytes",
]  # fmt: skip


def our_kernels(architecture: str) -> list[Kernel]:
    """The kernels that run.cuh chooses for the published models."""
    kernels = []
    vector_atomics = float(architecture) >= 9
    for operator, channels, points in (("dcnv4", 16, 9), ("ms_deform_attn", 32, 16)):
        for dtype, cpp in (("float32", "float"), ("float16", "c10::Half"), ("bfloat16", "c10::BFloat16")):
            problem = f"problem_t<{operator}::Operator, {cpp}>"
            for direction, width in (("forward", 8), ("backward", 4 if vector_atomics else 1)):
                lanes = channels // width
                passes = -(-points // lanes)
                trips = (passes,) if direction == "forward" else (points / passes, passes)
                address = f"(void*)&{direction}_kernel<{width}, {lanes}, {problem}>"
                unrolled = lanes if direction == "forward" else 1
                kernels.append(Kernel(operator, direction, dtype, address, lanes, channels, 256, trips, unrolled, points))
    return kernels


def peer_kernels() -> list[Kernel]:
    """The kernels that the peer chooses for shapes that it has no entry for, with the blocks of FlashInternImage-T's res2."""
    kernels = []
    for dtype, cpp, wide, narrow in (
        ("float32", "float", "ulonglong4", "unsigned"),
        ("float16", "c10::Half", "uint4", "c10::Half"),
    ):
        forward = f"(void*)&forward_kernel_dcn_reg<{cpp}, 8, {wide}, 1, 9, false>"
        backward = f"(void*)&backward_kernel_dcn_warp_primitive<{cpp}, 1, {narrow}, 1, 9, false>"
        kernels.append(Kernel("peer's dcnv4", "forward", dtype, forward, 2, 16, 512, (3, 3), 1, 9))
        kernels.append(Kernel("peer's dcnv4", "backward", dtype, backward, 16, 16, 256, (3, 3), 1, 9))
    return kernels


def disassembler(cuda_home: str) -> str | None:
    """The path of cuobjdump: from the toolkit, or from triton, which PyTorch's CUDA builds depend on."""
    folders = [Path(cuda_home, "bin"), *(Path(folder, "triton/backends/nvidia/bin") for folder in sys.path)]
    return shutil.which("cuobjdump", path=":".join(map(str, folders))) or shutil.which("cuobjdump")


def toolkit() -> str | None:
    """The folder of a CUDA toolkit. Without a program to link, its compiler is enough."""
    return next((home for home in cuda_toolkit.candidates() if Path(home, "bin", "nvcc").exists()), None)


def obstacle() -> str | None:
    """The reason why kernels cannot be counted on this machine, or None."""
    home = toolkit()
    if home is None:
        return "no CUDA compiler was found"
    return None if disassembler(home) else "cuobjdump was not found"


def count(source: str, kernels: list[Kernel], architecture: str, includes: list[str], strict: bool = True) -> list[Counts]:
    """Compile kernels for one architecture, such as "9.0", and count them.

    Args:
        source: C++ with a %s for the addresses of kernels.
        strict: warnings are errors.

    Raises:
        RuntimeError: the kernels do not compile; the message is the compiler's.
    """
    home = toolkit()
    includes = [*includes, *include_paths("cpu"), *cuda_toolkit.wheel_files("include")]
    with tempfile.TemporaryDirectory() as scratch:
        file, cubin = Path(scratch, "kernels.cu"), Path(scratch, "kernels.cubin")
        for name, text in PEER_HEADERS.items() if not strict else ():
            header = Path(scratch, name)
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text("#pragma once\n" + text, encoding="utf-8")
        file.write_text(source % ", ".join(kernel.address for kernel in kernels), encoding="utf-8")
        command = [
            str(Path(home, "bin", "nvcc")), "-cubin", f"-arch=sm_{architecture.replace('.', '')}", "-std=c++20", "-O3",
            *(("-Werror", "all-warnings", "-Xptxas", "-v,-Werror") if strict else ("-w", "-Xptxas", "-v")),
            "--expt-relaxed-constexpr", "--expt-extended-lambda", "-DWITH_CUDA", f"-I{scratch}",
            *(flag for folder in includes for flag in ("-isystem", folder)), "-o", str(cubin), str(file),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if result.returncode:
            raise RuntimeError(f"the kernels do not compile for {architecture}:\n{result.stdout}{result.stderr}")
        code = subprocess.run(
            [disassembler(home), "-sass", str(cubin)], capture_output=True, encoding="utf-8", check=True
        ).stdout
    resources = dict(read_report(result.stdout + result.stderr))
    counted = {}
    for block in code.split("Function : ")[1:]:
        mangled = block.split(None, 1)[0]
        instructions = [
            Instruction(int(address, 16), name, operands) for address, _, name, operands in INSTRUCTION.findall(block)
        ]
        last = max(i for i, instruction in enumerate(instructions) if instruction.name != "NOP")
        counted[demangled(mangled)] = Counts(*resources[mangled], instructions[: last + 1])
    # A kernel's name has its template arguments, spelled by the compiler: find them by what tells kernels apart.
    return [counted[next(name for name in counted if matches(name, kernel))] for kernel in kernels]


def matches(name: str, kernel: Kernel) -> bool:
    """Whether a demangled name is that of a kernel's address."""
    squeezed = name.replace(" ", "").replace("flash_internimage::", "")
    function, arguments = re.search(r"&(\w+)<(.*)>$", kernel.address.replace(" ", "")).groups()
    parts = re.sub(r"problem_t<(.*),(.*)>", r"Problem<\1,Dtypes<\2,", arguments)
    return f"{function}<{parts}" in squeezed.replace("unsignedint", "unsigned").replace("cuda::Problem", "Problem")


def demangled(name: str) -> str:
    return subprocess.run(["c++filt", name], capture_output=True, encoding="utf-8", check=True).stdout.strip()


def read_report(report: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Parse the output of ``ptxas -v``: each kernel's registers, and bytes of spills."""
    name, spills = "", 0
    for line in report.splitlines():
        if entry := ENTRY.search(line):
            name = entry[1]
        elif found := FRAME.search(line):
            spills = int(found[2]) + int(found[3])
        elif (used := REGISTERS.search(line)) and name:
            yield name, (int(used[1]), spills)
            name = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=list(MULTIPROCESSORS), choices=MULTIPROCESSORS, metavar="X.Y")
    parser.add_argument("--peer", type=Path, help="the folder src/cuda of DCNv4's source distribution")
    options = parser.parse_args()
    if reason := obstacle():
        sys.exit(f"cuda_resources: {reason}")

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    print("| " + " | ".join(HEADER) + " |")
    print("| --- | --- | --- | --- |" + " ---: |" * (len(HEADER) - 4))
    for architecture in options.architectures:
        batches = [(OURS, our_kernels(architecture), str(ROOT / "csrc"), True)]
        if options.peer:
            batches.append((PEER, peer_kernels(), str(options.peer.resolve()), False))
        for source, kernels, folder, strict in batches:
            for kernel, counts in zip(kernels, count(source, kernels, architecture, [folder], strict), strict=True):
                print("| " + " | ".join(counts.row(kernel, architecture)) + " |", flush=True)


if __name__ == "__main__":
    main()
