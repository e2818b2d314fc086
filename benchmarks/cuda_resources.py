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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]

import cuda_toolkit  # noqa: E402 - from tools
import dcnv4_cuda  # noqa: E402 - from benchmarks

from flash_internimage import _C  # noqa: E402 - after torch, whose libraries it needs

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
template <typename op_t, typename value_t, typename points_t>
using problem_t = Problem<op_t, Dtypes<value_t, points_t, float>, int32_t>;
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

    def row(self, kernel: Kernel, architecture: str, peer_instructions: float | None = None) -> list[str]:
        threads, blocks = MULTIPROCESSORS[architecture]
        registers_per_warp = -(-self.registers * 32 // 256) * 256
        resident = min(65536 // registers_per_warp // (kernel.threads // 32), threads // kernel.threads, blocks)
        loads, stores = self.sample_loads(), self.named("STG")
        additions = self.named("RED")
        sector = min(32, additions[0].access_bytes * kernel.lanes) if additions else 0
        instructions = self.executed(kernel) * kernel.lanes
        return [
            kernel.label, kernel.direction, kernel.dtype,
            str(self.registers), f"{100 * resident * kernel.threads // threads} %",
            f"{instructions:.0f}", f"{peer_instructions / instructions:.2f}x" if peer_instructions else "",
            str(self.loads_in_flight()),
            f"{max((load.access_bytes for load in loads), default=0)}",
            f"{max((store.access_bytes for store in stores), default=0)}",
            f"{kernel.channels * 4 // sector} of {sector}" if sector else "",
            str(self.spill_bytes),
        ]  # fmt: skip


HEADER = [
    "kernel", "pass", "dtype", "registers", "occupancy", "instructions", "peer / ours", "loads in flight",
    "bytes per load", "bytes per store", "packets per corner, bytes", "spills, bytes",
]  # fmt: skip
LAUNCHES = """\
## Launches of DCNv4 on an H100

All stages of FlashInternImage-T, S, B and L at 800 x 1333 and all batches select the kernels above: 16 channels per group,
3 x 3 points, 32-bit indices. Only the launches differ: blocks x threads, and in parentheses the blocks divided by those that
the GPU holds at a time."""
H100_MULTIPROCESSORS = 132
# The dtypes of value, of the sampling points, and of the sums.
DTYPES = {
    "float32": "float, float",
    "float16": "c10::Half, c10::Half",
    "bfloat16": "c10::BFloat16, c10::BFloat16",
    "float16, points float32": "c10::Half, float",
    "bfloat16, points float32": "c10::BFloat16, float",
}


def our_kernels(architecture: str) -> list[Kernel]:
    """The kernels that run.cuh chooses for the published models: the same for all stages, sizes and batches."""
    kernels = []
    vector_atomics = float(architecture) >= 9
    for operator, channels, points, unrolled in (("dcnv4", 16, 9, 9), ("ms_deform_attn", 32, 16, 0)):
        for dtype, types in DTYPES.items():
            problem = f"problem_t<{operator}::Operator, {types}>"
            lanes = channels // 8
            passes = -(-points // lanes)
            address = f"(void*)&forward_kernel<8, {lanes}, {unrolled}, {problem}>"
            trips, samples = ((1,), 1) if unrolled else ((passes,), lanes)
            kernels.append(Kernel(operator, "forward", dtype, address, lanes, channels, 256, trips, samples, points))
            width = 4 if vector_atomics else 1
            lanes = channels // width
            passes = -(-points // lanes)
            address = f"(void*)&backward_kernel<{width}, {lanes}, {problem}>"
            trips = (points / passes, passes)
            kernels.append(Kernel(operator, "backward", dtype, address, lanes, channels, 256, trips, 1, points))
    return kernels


def peer_kernels() -> list[Kernel]:
    """The kernels that the peer chooses for the stages of the published models.

    For shapes that its table lacks: 8 channels per lane in a forward, with blocks of 512 threads at res2 of
    FlashInternImage-T. Its table has one forward with 4 channels per lane for each of T and S at 800 x 1280.
    """
    kernels = []
    for dtype, cpp, words in (
        ("float32", "float", {8: "ulonglong4", 4: "uint4", 1: "unsigned"}),
        ("float16", "c10::Half", {8: "uint4", 4: "uint2", 1: "c10::Half"}),
    ):
        for width, label, threads in ((8, "peer's dcnv4", 512), (4, "peer's dcnv4, tuned", 640)):
            forward = f"(void*)&forward_kernel_dcn_reg<{cpp}, {width}, {words[width]}, 1, 9, false>"
            kernels.append(Kernel(label, "forward", dtype, forward, 16 // width, 16, threads, (3, 3), 1, 9))
        backward = f"(void*)&backward_kernel_dcn_warp_primitive<{cpp}, 1, {words[1]}, 1, 9, false>"
        kernels.append(Kernel("peer's dcnv4", "backward", dtype, backward, 16, 16, 256, (3, 3), 1, 9))
    return kernels


class Launch(NamedTuple):
    """A launch on an H100.

    Attributes:
        rounds: blocks divided by those that the GPU holds at a time.
        idle: share of the threads that have no unit.
    """

    blocks: int
    threads: int
    rounds: float
    idle: float

    def __str__(self) -> str:
        return f"{self.blocks} x {self.threads} ({self.rounds:.1f})"


def launch_of(shape: dcnv4_cuda.Shape, width: int) -> Launch:
    """The launch of a stage of a model, by kernels whose lanes have `width` channels.

    Raises:
        AssertionError: the shape needs another kernel than those of `our_kernels`.
    """
    outputs = shape.batch * shape.height * shape.width
    assert outputs * (27 * shape.groups + 7) < 2**30, "32-bit indices, see fits_32_bits in csrc/cuda/instance.h"
    units = outputs * shape.groups
    plan = _C.plan_cuda_launch(units, dcnv4_cuda.GROUP_CHANNELS, width, H100_MULTIPROCESSORS)
    # Kernels with 64 registers: a multiprocessor holds 1,024 threads.
    rounds = plan["blocks"] * plan["threads"] / (1024 * H100_MULTIPROCESSORS)
    return Launch(plan["blocks"], plan["threads"], rounds, 1 - units / (plan["blocks"] * plan["units_per_block"]))


def print_launches() -> None:
    """Print the table of launches for all stages of the published models, and batches 1, 2 and 8."""
    shapes = list(dcnv4_cuda.shapes(["800x1333"], dcnv4_cuda.BATCHES))
    table = {}
    for shape in shapes:
        table.setdefault(shape.name.partition(",")[0], []).extend(launch_of(shape, width) for width in (8, 4))
    idle = max(launch.idle for launches in table.values() for launch in launches)
    header = ["stage", *(f"{direction}, batch {n}" for direction in ("forward", "backward") for n in dcnv4_cuda.BATCHES)]
    print(f"\n{LAUNCHES} At most {100 * idle:.1f} % of the threads of a launch have no unit.\n")
    print_table(header, 1, ([name, *map(str, launches[::2] + launches[1::2])] for name, launches in table.items()))


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
    parts = re.sub(r"problem_t<([^,]*),(.*)>", r"Problem<\1,Dtypes<\2,", arguments)
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


def print_table(header: list[str], text_columns: int, rows: Iterable[list[str]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * text_columns + " ---: |" * (len(header) - text_columns))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def rows(architecture: str, peer: Path | None) -> Iterator[list[str]]:
    """Rows of the table of an architecture; kernels that have a peer also get the quotient of the instructions."""
    peers = peer_kernels() if peer else []
    counted = count(PEER, peers, architecture, [str(peer.resolve())], strict=False) if peer else []
    instructions = {
        (kernel.direction, kernel.dtype): counts.executed(kernel) * kernel.lanes
        for kernel, counts in zip(peers, counted, strict=True)
        if kernel.label == "peer's dcnv4"
    }
    ours = our_kernels(architecture)
    for kernel, counts in zip(ours, count(OURS, ours, architecture, [str(ROOT / "csrc")]), strict=True):
        # The peer has no bfloat16 backward, and no kernels for float32 points.
        theirs = instructions.get((kernel.direction, kernel.dtype)) if kernel.label == "dcnv4" else None
        yield counts.row(kernel, architecture, theirs)
    for kernel, counts in zip(peers, counted, strict=True):
        yield counts.row(kernel, architecture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=list(MULTIPROCESSORS), choices=MULTIPROCESSORS, metavar="X.Y")
    parser.add_argument("--peer", type=Path, help="the folder src/cuda of DCNv4's source distribution")
    options = parser.parse_args()
    if reason := obstacle():
        sys.exit(f"cuda_resources: {reason}")

    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    for architecture in options.architectures:
        print(f"\n## sm_{architecture.replace('.', '')}\n")
        print_table(HEADER, 3, rows(architecture, options.peer))
    print_launches()


if __name__ == "__main__":
    main()
