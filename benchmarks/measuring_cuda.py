"""Measurements of the GPU benchmarks: kernel and host times, errors against float64, and tables with a summary.

Imports torch alone, so that the benchmarks run on a machine without detectron2.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Call = Callable[[], object]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Largest error of a correct result, relative to the largest element of the result: accumulation in float32, then one rounding.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
PEER_TOLERANCE = 0.1  # of peers, some of which accumulate in half precision

WARM_UP_CALLS = 3
REPLAYS = 5
MEASURED_MILLISECONDS = 10  # per replay: long compared with the resolution of events
MOST_CALLS = 200


class Timing(NamedTuple):
    """Times of one call, in milliseconds.

    Attributes:
        kernel: time on the GPU alone.
        operator: time per call in a loop, as in a program: the longer of kernel and host.
        host: time that the CPU takes to launch a call.
        method: how the kernel time was measured: "graph" (a CUDA graph of many calls) or "events" (many calls between two
            events, which contain the host's time where it is the longer).
    """

    kernel: float
    operator: float
    host: float
    method: str


class Measured(NamedTuple):
    """One pass of one implementation.

    Attributes:
        timing: None if the pass failed.
        error: largest error of any result, relative to its largest element; NaN if the pass failed.
        failure: first line of the exception.
    """

    timing: Timing | None
    error: float = math.nan
    failure: str = ""


class Row(NamedTuple):
    """One pass of this project and of its peers, for one shape and dtype."""

    shape: str
    dtype: str
    direction: str  # forward or backward
    ours: Measured
    peers: dict[str, Measured]


class Candidate(NamedTuple):
    """An implementation as a function of its tensors."""

    name: str
    function: Callable[..., Tensor]


class Problem(NamedTuple):
    """What to measure for one shape and dtype.

    Attributes:
        shape: its name in the table.
        dtype: a key of `DTYPES`.
        draw: random tensors of a dtype on the GPU.
        ours: this project's operator. In float64 it is the reference too; the tests compare that with other libraries.
        peers: implementations to compare with.
    """

    shape: str
    dtype: str
    draw: Callable[[torch.dtype], Sequence[Tensor]]
    ours: Candidate
    peers: Sequence[Candidate]


def calls_per_replay(milliseconds: float) -> int:
    """How many calls of this duration to time together."""
    return max(1, min(MOST_CALLS, round(MEASURED_MILLISECONDS / max(milliseconds, 1e-3))))


def elapsed_milliseconds(call: Call) -> float:
    """Time between two events around a call."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_call(call: Call) -> Timing:
    """Time a call on the current stream, which may not be the default stream, because that cannot be captured."""
    for _ in range(WARM_UP_CALLS):
        call()
    torch.cuda.synchronize()
    count = calls_per_replay(elapsed_milliseconds(call))

    def repeatedly() -> None:
        for _ in range(count):
            call()

    operator, host = [], []
    for _ in range(3):
        start = time.perf_counter()
        repeatedly()
        host.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        operator.append(time.perf_counter() - start)
    milliseconds = [1e3 * statistics.median(times) / count for times in (operator, host)]

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            repeatedly()
    except RuntimeError:
        run, method = repeatedly, "events"
    else:
        run, method = graph.replay, "graph"
    run()
    kernel = statistics.median(elapsed_milliseconds(run) for _ in range(REPLAYS)) / count
    return Timing(kernel, *milliseconds, method)


def largest_error(results: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Largest difference relative to the largest element of each tensor; infinite where a result is not finite."""
    errors = [0.0]
    for ours, exact in zip(results, expected, strict=True):
        difference = (ours.double() - exact).abs().max().item() if exact.numel() else 0.0
        scale = exact.abs().max().item() if exact.numel() else 1.0
        errors.append(difference / scale if math.isfinite(difference) and scale > 0 else (math.inf if difference else 0.0))
    return max(errors)


def reason(error: BaseException) -> str:
    """The first line of an exception, for a table."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:80].replace("|", "/")


def exact_results(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor) -> list[Tensor]:
    """Output and gradients in float64."""
    leaves = [tensor.double().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad_output.double())]


def measure(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor, expected: Sequence[Tensor]
) -> dict[str, Measured]:
    """Time and check forward and backward of an implementation; a failure of one does not affect the other.

    Args:
        function: of `tensors`.
        grad_output: gradient of its output.
        expected: output and gradients in float64.

    Raises:
        RuntimeError: the GPU no longer answers, so that nothing else can be measured in this process.
    """
    measured = {}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    # The backward runs on the stream of its forward, which must be the one that is captured.
    with torch.cuda.stream(stream):
        try:
            with torch.no_grad():
                error = largest_error([function(*tensors)], expected[:1])
                measured["forward"] = Measured(time_call(lambda: function(*tensors)), error)
        except (RuntimeError, ValueError, TypeError, AssertionError) as exception:
            measured["forward"] = Measured(None, failure=reason(exception))
        try:
            output = function(*leaves)

            def gradients() -> tuple[Tensor, ...]:
                return torch.autograd.grad(output, leaves, grad_output, retain_graph=True)

            error = largest_error(gradients(), expected[1:])
            measured["backward"] = Measured(time_call(gradients), error)
        except (RuntimeError, ValueError, TypeError, AssertionError) as exception:
            measured["backward"] = Measured(None, failure=reason(exception))
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    return measured


def measure_problem(problem: Problem) -> list[Row]:
    """Measure all implementations: a row for forward and one for backward."""
    ours = problem.ours
    torch.manual_seed(0)
    tensors = problem.draw(DTYPES[problem.dtype])
    with torch.no_grad():
        grad_output = torch.randn_like(ours.function(*tensors))
    expected = exact_results(ours.function, tensors, grad_output)
    results = {each.name: measure(each.function, tensors, grad_output, expected) for each in [ours, *problem.peers]}
    return [
        Row(
            problem.shape,
            problem.dtype,
            direction,
            results[ours.name][direction],
            {peer.name: results[peer.name][direction] for peer in problem.peers},
        )
        for direction in ("forward", "backward")
    ]


def is_wrong(measured: Measured, tolerance: float) -> bool:
    """Whether a pass ran and its error is larger than rounding explains."""
    return measured.timing is not None and not measured.error <= tolerance


def fails(row: Row) -> bool:
    """Whether this project's pass failed or is wrong."""
    return row.ours.timing is None or is_wrong(row.ours, TOLERANCES[DTYPES[row.dtype]])


def speedup(row: Row, peer: str) -> float | None:
    """Kernel time of a peer relative to this project's; None if either failed or is wrong."""
    theirs = row.peers[peer]
    if fails(row) or row.ours.timing is None or theirs.timing is None or is_wrong(theirs, PEER_TOLERANCE):
        return None
    return theirs.timing.kernel / row.ours.timing.kernel


def header(peers: Sequence[str]) -> str:
    """The head of the table, in Markdown."""
    columns = ["shape", "dtype", "pass", "kernel", "operator", "host", "error"]
    for peer in peers:
        columns += [f"{peer}: kernel", "operator", "host", "error"]
    aligned = ["---"] * 3 + ["---:"] * (len(columns) - 3)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, aligned))


def line(row: Row) -> str:
    """One row of the table: milliseconds for kernels and operators, microseconds for the host."""
    cells = [row.shape, row.dtype, row.direction, *_cells(row.ours, TOLERANCES[DTYPES[row.dtype]])]
    for peer, measured in row.peers.items():
        theirs = _cells(measured, PEER_TOLERANCE)
        ratio = speedup(row, peer)
        if ratio is not None:
            theirs[0] += f" ({ratio:.2f}x)"
        cells += theirs
    return "| " + " | ".join(cells) + " |"


def _cells(measured: Measured, tolerance: float) -> list[str]:
    if measured.timing is None:
        return [f"failed: {measured.failure}", "", "", ""]
    kernel, operator, host, method = measured.timing
    mark = "" if method == "graph" else " (events)"
    wrong = "**wrong:** " if is_wrong(measured, tolerance) else ""
    return [f"{kernel:.4f}{mark}", f"{operator:.4f}", f"{1e3 * host:.0f}", f"{wrong}{measured.error:.1e}"]


def summary(rows: Sequence[Row], goals: dict[str, float]) -> list[str]:
    """Sentences about all rows: speedups over each peer per dtype and pass, wrong results, failures.

    Args:
        goals: the speedup that each pass should reach.
    """
    lines = []
    for peer in dict.fromkeys(name for row in rows for name in row.peers):
        for dtype in dict.fromkeys(row.dtype for row in rows):
            for direction in ("forward", "backward"):
                chosen = [row for row in rows if row.dtype == dtype and row.direction == direction]
                pairs = [(speedup(row, peer), row.shape) for row in chosen]
                ratios = [(ratio, shape) for ratio, shape in pairs if ratio is not None]
                if not ratios:
                    lines.append(f"- {dtype}, {direction}: no time of {peer}")
                    continue
                mean = math.exp(statistics.fmean(math.log(ratio) for ratio, _ in ratios))
                lowest, shape = min(ratios)
                goal = goals.get(direction, 1.0)
                reached = sum(ratio >= goal for ratio, _ in ratios)
                lines.append(
                    f"- {dtype}, {direction}: {mean:.2f}x as fast as {peer} (geometric mean), at least {lowest:.2f}x "
                    f"({shape}); {goal}x in {reached} of {len(ratios)} shapes"
                )
    lines.append(f"- {sum(map(fails, rows))} of {len(rows)} rows of this project are wrong or failed")
    return lines


def require_gpu(program: str) -> None:
    """End the program if there is no GPU."""
    if not torch.cuda.is_available():
        sys.exit(f"{program}: no GPU was found; this benchmark needs one")


def machine() -> str:
    """GPU and versions, in one line."""
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"{name} (compute capability {major}.{minor}), torch {torch.__version__}, CUDA {torch.version.cuda}"


LEGEND = """\
Milliseconds, host in microseconds. *kernel*: on the GPU alone, from a CUDA graph of many calls. *operator*: per call in a loop.
*host*: the CPU's part of it. *error*: largest difference from float64, relative to the largest element of the result.
In parentheses: the time relative to this project's."""


class Report:
    """Writes a table row by row to a file and to the terminal; peers may print to the terminal themselves.

    Args:
        path: the file; None for the terminal alone.
        seconds: rows are left out once this time is over.
    """

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path = path
        self.deadline = time.monotonic() + seconds
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")

    def write(self, text: str) -> None:
        print(text, flush=True)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    def measure(self, problems: Iterable[Problem], goals: dict[str, float]) -> int:
        """Write a row per problem and pass, then the summary; return the exit status: 1 if a result of this project is wrong.

        Args:
            goals: the speedup over peers that each pass should reach.
        """
        rows: list[Row] = []
        left_out = 0
        for problem in problems:
            if time.monotonic() > self.deadline:
                left_out += 1
                continue
            try:
                measured = measure_problem(problem)
            except torch.OutOfMemoryError:
                self.write(f"| {problem.shape} | {problem.dtype} | | out of memory |")
                continue
            finally:
                torch.cuda.empty_cache()
            for row in measured:
                self.write(line(row))
            rows += measured
        self.write("")
        for text in summary(rows, goals):
            self.write(text)
        if left_out:
            self.write(f"- {left_out} problems were left out for lack of time")
        return int(not rows or any(map(fails, rows)))
