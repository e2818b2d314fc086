"""Mutation testing of the kernels: each change below, applied to a copy, has to make a test under sanitizers fail.

python -m tests.sanitized.mutants            # all of them, one line of output each
python -m tests.sanitized.mutants shuffle    # those whose description contains the word
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .build import CSRC, OPERATORS, REPOSITORY, build
from .cpu.kernels import TESTED
from .cuda.emulator import VARIANTS

FOLDER = REPOSITORY / "build" / "mutants"
SECONDS = 900  # for the tests of one mutant; a mutant that never terminates counts as detected


class Mutant(NamedTuple):
    """A change of text that occurs exactly once in its file."""

    description: str
    file: str
    before: str
    after: str


SAMPLING, VECTOR = "cuda/sampling.cuh", "cuda/vector.cuh"
DCNV4, ATTENTION = "dcnv4/dcnv4_points_cuda.cuh", "ms_deform_attn/ms_deform_attn_points_cuda.cuh"
POINT_BLOCK = "cpu/point_block.h"

CUDA_MUTANTS = [
    Mutant(
        "off by one: the last point is not sampled",
        SAMPLING,
        "pass <= last_point; pass += lanes) {\n        const",
        "pass < last_point; pass += lanes) {\n        const",
    ),
    Mutant("off by one: a row below the feature map", "core/bilinear.h", "(row < height - 1 ? 0xC", "(row < height ? 0xC"),
    Mutant(
        "off by one: a unit beyond the last", SAMPLING, "const bool works = has_unit && (fixed", "const bool works = (fixed"
    ),
    Mutant(
        "off by one: a gradient of no point is not zero", DCNV4, "i <= geometry.unused_point_el", "i < geometry.unused_point_el"
    ),
    Mutant(
        "bound: channels beyond the last",
        SAMPLING,
        "has_unit && (fixed_lanes > 0 || channel < problem.channels)",
        "has_unit",
    ),
    Mutant("bound: corners outside the feature map", SAMPLING, "if (has(which, corner)) {", "if (which != 0) {"),
    Mutant("lane mask: half of a warp", VECTOR, "0xFFFFFFFF", "0x0000FFFF"),
    Mutant(
        "shuffle: from a lane that does not call",
        SAMPLING,
        "if (needs_points) {\n          sum_over_lanes",
        "if (needs_points && has_unit) {\n          sum_over_lanes",
    ),
    Mutant("shuffle: half of the lanes", VECTOR, "int distance = lanes / 2;", "int distance = lanes / 4;"),
    Mutant("shuffle: beyond the unit", VECTOR, "int distance = lanes / 2;", "int distance = lanes;"),
    Mutant(
        "shuffle: the sample of another unit",
        SAMPLING,
        "__shfl_sync(kWholeWarp, first, lane, lanes)",
        "__shfl_sync(kWholeWarp, first, lane, kWarpThreads)",
    ),
    Mutant(
        "shuffle: every lane keeps the first point's dot products",
        SAMPLING,
        "lane == place.lane ? dots[corner]",
        "lane == 0 ? dots[corner]",
    ),
    Mutant(
        "x and y swapped: gradient of offsets",
        DCNV4,
        "gradients[2 * point] = static_cast<offset_t>(x *",
        "gradients[2 * point] = static_cast<offset_t>(y *",
    ),
    Mutant(
        "x and y swapped: location",
        ATTENTION,
        "coordinate(static_cast<acc_t>(numbers.y), level.height)",
        "coordinate(static_cast<acc_t>(numbers.x), level.height)",
    ),
    Mutant(
        "x and y swapped: taps of the unrolled kernel",
        DCNV4,
        "locate_at(points_.usual_taps_[point], numbers)",
        "locate_at({points_.usual_taps_[point].x, points_.usual_taps_[point].y}, numbers)",
    ),
    Mutant(
        "off by one: the taps of the unrolled kernel end before the last point",
        DCNV4,
        "std::min(geometry_.group_points, dcnv4::Operator::kUsualPoints)",
        "std::min(geometry_.group_points, dcnv4::Operator::kUsualPoints - 1)",
    ),
    Mutant("unrolled kernel for any number of points", "cuda/run.cuh", "problem.points == op_t::kUsualPoints", "true"),
    Mutant(
        "int instead of int64: number of a unit",
        DCNV4,
        "Unit(const Points& points, index_t number)",
        "Unit(const Points& points, int32_t number)",
    ),
    Mutant("int instead of int64: element of a corner", SAMPLING, "__forceinline__ index_t at(", "__forceinline__ int32_t at("),
    Mutant("int instead of int64: too large for 32 bits", "cuda/instance.h", "int64_t(1) << 30", "int64_t(1) << 40"),
    Mutant("alignment: vectors at half of their alignment", "cuda/instance.h", "% word_bytes != 0", "% (word_bytes / 2) != 0"),
    Mutant(
        "alignment: vectors for any number of channels",
        "cuda/instance.h",
        "channels % width != 0",
        "channels % (width / 2) != 0",
    ),
    Mutant("division: reciprocal rounded down", "cuda/divider.h", "+ divisor - 1) / divisor", ") / divisor"),
    Mutant("no atomic: gradient of value", VECTOR, "atomicAdd(to + i, weight * from[i]);", "to[i] += weight * from[i];"),
    Mutant(
        "two lanes write one point's gradient",
        SAMPLING,
        "needs_points && has_unit && pass + place.lane <= last_point",
        "needs_points && has_unit",
    ),
    Mutant(
        "two units write one output",
        SAMPLING,
        "result.store(output + (unit.output() + channel)",
        "result.store(output + channel",
    ),
    Mutant(
        "two lanes write one word",
        SAMPLING,
        "return channels_t::kPerWord * (fixed_lanes > 0 ? lanes : 1);",
        "return channels_t::kPerWord;",
    ),
    Mutant(
        "vector reduction: two of four swapped",
        VECTOR,
        "weight * from[2], weight * from[3]}",
        "weight * from[3], weight * from[2]}",
    ),
    Mutant("products of pairs: one of two twice", VECTOR, "sum[i + 1] = sums.y;", "sum[i + 1] = sums.x;"),
    Mutant("halves of a word swapped", VECTOR, "i % 2 == 0 ? bits << 16", "i % 2 != 0 ? bits << 16"),
    Mutant("a turn too few", SAMPLING, "fixed_lanes > 0 || turn < problem.channels;", "turn == 0;"),
    Mutant(
        "a hostile point keeps its gradient",
        SAMPLING,
        "inside ? slope.y * located.modulation : acc_t(0), inside",
        "slope.y * located.modulation, inside",
    ),
    Mutant(
        "an infinite modulation reaches corners outside the feature map",
        SAMPLING,
        "has(corners, corner) ? product : -acc_t(0);",
        "product;",
    ),
]


CPU_MUTANTS = [
    Mutant(
        "CPU, over-read: behind the end of the buffer",
        POINT_BLOCK,
        "pairs.end - pairs.at >= 2 * kBlock && factors.end - factors.at >= kBlock",
        "pairs.end >= pairs.at",
    ),
    Mutant(
        "CPU, over-read: the end of the offsets' buffer, one too far",
        "dcnv4/dcnv4_points_cpu.h",
        "end_(offset_mask_ + ",
        "end_(offset_mask_ + 1 + ",
    ),
    Mutant(
        "CPU, off by one: the lower corners of the last row",
        POINT_BLOCK,
        "static_cast<acc_t>(map_height - 1)",
        "static_cast<acc_t>(map_height)",
    ),
    Mutant(
        "CPU, corner mask: lower corners count in the slice of the upper ones",
        POINT_BLOCK,
        "row[i] + 1 >= first && row[i] + 1 < last ? 0xC : 0",
        "row[i] >= first && row[i] < last ? 0xC : 0",
    ),
    Mutant(
        "CPU, x and y swapped: location",
        "ms_deform_attn/ms_deform_attn_points_cpu.h",
        "y[i] = ms_deform_attn::coordinate(y[i], block.height[i])",
        "y[i] = ms_deform_attn::coordinate(x[i], block.height[i])",
    ),
    Mutant(
        "CPU, race: each slice writes the gradients of the rows before its own",
        "cpu/kernels.h",
        "const bool owns_output = output >= first_owned &&",
        "const bool owns_output =",
    ),
]

MUTANTS = CUDA_MUTANTS + CPU_MUTANTS


def apply(mutant: Mutant, csrc: Path) -> str:
    """Return the text of the changed file.

    Raises:
        ValueError: the text to change does not occur exactly once, so the list is out of date.
    """
    text = (csrc / mutant.file).read_text()
    if text.count(mutant.before) != 1:
        raise ValueError(
            f"mutant {mutant.description!r}: {mutant.file} should have {mutant.before!r} once, "
            f"has it {text.count(mutant.before)} times; change mutants.py with the kernels"
        )
    return text.replace(mutant.before, mutant.after)


@contextmanager
def applied(mutant: Mutant, csrc: Path) -> Iterator[None]:
    """Apply a change for the duration of a with statement."""
    path = csrc / mutant.file
    original, changed = path.read_text(), apply(mutant, csrc)
    path.write_text(changed)
    try:
        yield
    finally:
        path.write_text(original)


def failure(tests: list[str], chosen: str, programs: Path) -> str | None:
    """Run the tests that match `chosen` on the programs in a folder; return the first failure and its reason, or None.

    Raises:
        RuntimeError: the tests could not be run.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "-k", chosen, *tests]
    environment = {**os.environ, "SANITIZED_PROGRAMS": str(programs), "OMP_NUM_THREADS": "1"}
    try:
        run = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no result in {SECONDS} s"
    if run.returncode == 0:
        return None
    failed = re.search(r"^FAILED tests/(\S+::.*?\])(?: - (.*))?$", run.stdout, flags=re.MULTILINE)
    if run.returncode != 1 or failed is None:
        raise RuntimeError(f"the tests could not be run on the mutant:\n{run.stdout[-3000:]}{run.stderr[-1000:]}")
    report = r"CUDA emulator: .*|ERROR: AddressSanitizer: .*?(?= on| \(|$)|runtime error: .*|two pieces .*"
    reason = re.search(report, run.stdout, flags=re.MULTILINE)
    return f"{failed[1]}: {reason[0] if reason else 'other numbers'}"


def killer_of_cuda(mutant: Mutant, csrc: Path) -> str | None:
    """The test that fails on the CUDA kernels from `csrc`, which `mutant` has changed."""
    # For code that both operators share, the tests of one are enough.
    operator = "ms_deform_attn" if mutant.file.startswith("ms_deform_attn") else "dcnv4"
    # The tests that fail soonest come first.
    tests = ["tests/ops/test_cuda_kernels.py", f"tests/ops/test_{operator}.py"]
    for variant in reversed(VARIANTS):  # the one that detects more and compiles faster comes first
        build(variant, csrc, FOLDER / operator, [operator])
        killed = failure(tests, " and ".join([*str(variant).split(), operator]), FOLDER / operator)
        if killed:
            return killed
    return None


def killer_of_cpu(mutant: Mutant, csrc: Path) -> str | None:
    """The test that fails on the CPU kernels from `csrc`, which `mutant` has changed."""
    for variant in TESTED:
        build(variant, csrc, FOLDER / "cpu", OPERATORS)
    return failure(["tests/sanitized/test_fuzz.py"], "random and cpu", FOLDER / "cpu")


def main() -> int:
    """Try the mutants; return 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only mutants whose description contains it")
    chosen = [mutant for mutant in MUTANTS if parser.parse_args().word in mutant.description]
    for mutant in chosen:
        apply(mutant, CSRC)
    csrc = FOLDER / "csrc"
    shutil.rmtree(csrc, ignore_errors=True)
    shutil.copytree(CSRC, csrc)  # keeps modification times, so that only changes are recompiled

    survivors = 0
    for mutant in chosen:
        start = time.monotonic()
        with applied(mutant, csrc):
            killed = killer_of_cpu(mutant, csrc) if mutant in CPU_MUTANTS else killer_of_cuda(mutant, csrc)
        survivors += killed is None
        outcome = f"killed by {killed}" if killed else "SURVIVED"
        print(f"{mutant.description}: {outcome} [{time.monotonic() - start:.0f} s]", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
