#!/usr/bin/env python3
"""Check everything that needs a GPU on this machine, within eight minutes, and write a report.

    python tools/gpu_check.py                          # all parts
    python tools/gpu_check.py --parts tests detectors
    python tools/gpu_check.py --output results         # folder of the report; by default benchmarks/results

Each part runs in a separate process with a time limit, so that one that hangs does not affect the others. A part that cannot
run here is skipped, and the report says why. The exit status is 1 if a part failed. On a machine without this package's
environment, build/gpu-kit (tools/gpu_kit.py) provides the missing packages; PyTorch and torchvision are needed.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch_environment import native_digest

ROOT = Path(__file__).resolve().parent.parent
KIT = ROOT / "build" / "gpu-kit"
WORK = ROOT / "build" / "gpu"
RESULTS = ROOT / "benchmarks" / "results"
BUILD_SECONDS = 300

DESCRIBE = """\
import importlib.util, json, platform, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version(), "gpu": None}
if torch.cuda.is_available():
    found["gpu"] = torch.cuda.get_device_name()
    found["capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
spec = importlib.util.find_spec("flash_internimage._C")
found["extension"] = spec and spec.origin
try:
    from flash_internimage import _C
    found |= {"build": _C.build_info(), "error": None}
except ImportError as error:
    found |= {"build": None, "error": str(error)}
print(json.dumps(found))
"""

LOAD = """\
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("flash_internimage._C", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""

# One small call of each operator and its backward, per kind of memory access.
SMALL_CALLS = """\
import torch
from flash_internimage.ops import dcnv4, ms_deform_attn
for dtype in (torch.float32, torch.float16):
    for channels in (16, 5):
        tensors = [torch.randn(1, 9, 7, 2 * channels), torch.randn(1, 9, 7, 56)]
        value, offset_mask = (tensor.to("cuda", dtype).requires_grad_() for tensor in tensors)
        dcnv4(value, offset_mask, 3, padding=1, groups=2).sum().backward()
        tensors = [torch.randn(1, 26, 2, channels), torch.rand(1, 11, 2, 2, 4, 2), torch.rand(1, 11, 2, 2, 4)]
        value, locations, weights = (tensor.to("cuda", dtype).requires_grad_() for tensor in tensors)
        ms_deform_attn(value, [(4, 5), (2, 3)], locations, weights).sum().backward()
torch.cuda.synchronize()
"""


class Part(NamedTuple):
    """A part of the check.

    Attributes:
        title: heading in the report.
        seconds: time limit.
        command: what to run, after the interpreter; `{table}` is a file whose contents the report takes over.
        obstacle: the reason why it cannot run here, or None.
        before: what runs the interpreter: a program and its options.
    """

    title: str
    seconds: int
    command: list[str]
    obstacle: Callable[[], str | None] = lambda: None
    before: tuple[str, ...] = ()


def needs_sanitizer() -> str | None:
    return None if shutil.which("compute-sanitizer") else "compute-sanitizer is not on the PATH"


def needs(*modules: str) -> Callable[[], str | None]:
    """Return the obstacle of a part that imports these modules."""

    def missing() -> str | None:
        absent = [name for name in modules if not importlib.util.find_spec(name) and not (WORK / "site" / name).is_dir()]
        return f"needs {' and '.join(absent)}" if absent else None

    return missing


def sanitizer(tool: str) -> Part:
    return Part(
        f"compute-sanitizer {tool}",
        50,
        ["-c", SMALL_CALLS],
        needs_sanitizer,
        ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9"),
    )


def benchmark(name: str, title: str, seconds: int) -> Part:
    # A row that starts in time may end later, and the last row takes longest: leave time for it.
    arguments = ["--seconds", str(seconds - 20), "--output", "{table}"]
    return Part(title, seconds, [f"benchmarks/{name}.py", *arguments])


PARTS = {
    "tests": Part(
        "Tests of the operators",
        110,
        ["-m", "pytest", "-q", "-m", "gpu", "-o", "addopts=--import-mode=importlib", "tests/ops"],
        needs("pytest", "hypothesis", "numpy", "torchvision"),
    ),
    "dcnv4": benchmark("dcnv4_cuda", "DCNv4: time", 130),
    "detectors": Part("Detectors, compared with the CPU", 60, ["tools/gpu_detectors.py"], needs("detectron2", "torchvision")),
    "attention": benchmark("ms_deform_attn_cuda", "Multi-scale deformable attention: time", 75),
    "memcheck": sanitizer("memcheck"),
    "racecheck": sanitizer("racecheck"),
}


class Outcome(NamedTuple):
    """How a part ended."""

    result: str  # passed, failed (…), timed out, skipped: …
    seconds: float = 0.0
    details: str = ""  # Markdown

    @property
    def failed(self) -> bool:
        return not self.result.startswith(("passed", "skipped"))


def environment() -> dict[str, str]:
    """The environment of all parts: the packages of the kit, and this checkout, can be imported."""
    paths = [str(ROOT), str(WORK / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def run_limited(command: list[str], seconds: float, log: Path, **variables: str) -> int | None:
    """Run a command with its output in a file; return its exit status, or None if it was stopped at the limit."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its children, such as compilers
            process.wait()
            return None


def run_part(name: str, part: Part) -> Outcome:
    """Run one part; a failure of the part is part of the result and raises nothing."""
    reason = part.obstacle()
    if reason is not None:
        return Outcome(f"skipped: {reason}")
    table, log = WORK / f"{name}.md", WORK / f"{name}.log"
    table.unlink(missing_ok=True)
    arguments = [str(table) if word == "{table}" else word for word in part.command]
    start = time.monotonic()
    # Without PyTorch's cache of memory, the sanitizer sees the end of every tensor.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if part.before else {}
    status = run_limited([*part.before, sys.executable, *arguments], part.seconds, log, **uncached)
    seconds = time.monotonic() - start
    printed = log.read_text(encoding="utf-8", errors="replace")
    result = f"timed out after {part.seconds} s" if status is None else "passed" if status == 0 else f"failed ({status})"
    return Outcome(result, seconds, details(printed, table, is_complete=status == 0))


def details(printed: str, table: Path, is_complete: bool) -> str:
    """Return the section of a part: its table or Markdown, otherwise the end of its output, longer if it failed."""
    if table.exists():
        text = table.read_text(encoding="utf-8", errors="replace").strip()
        return text if is_complete else f"{text}\n\n{quoted(printed, 30)}"
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    if lines and is_complete:
        return "\n".join(lines)
    return quoted(printed, 3 if is_complete else 60)


def quoted(text: str, count: int) -> str:
    """The last lines of a text, as a block of code."""
    lines = text.strip().splitlines()[-count:]
    return "\n".join(["```", *(line[:300] for line in lines), "```"])


def describe() -> dict:
    """Versions, the GPU and the extension, as a process of a part sees them."""
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE], cwd=ROOT, env=environment(), capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode != 0:
        sys.exit(f"gpu_check: PyTorch cannot be used here: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def unpack_kit(found: dict) -> str | None:
    """Take from build/gpu-kit what is missing, if it can be used here.

    Its extension goes beside the package, and those of its wheels that are not installed into a folder of the path.

    Returns:
        A sentence for the report; None if there is no kit.
    """
    shutil.rmtree(WORK / "site", ignore_errors=True)  # of an earlier kit
    if not (KIT / "kit.json").exists():
        return None
    text = (KIT / "kit.json").read_text(encoding="utf-8").strip()
    made_for = json.loads(text)
    extension = KIT / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    refusal = mismatch(made_for, found) or load_error(extension)
    if refusal is not None:
        return f"build/gpu-kit is not used: {refusal}."
    is_outdated = made_for["sources"] != native_digest(ROOT)
    if has_kernels(found) and is_outdated and Path(sys.prefix).resolve() == ROOT / ".venv":
        note = " The extension is not the kit's: `make` compiled it from newer sources."
    else:
        replace_if_different(ROOT / "flash_internimage" / extension.name, extension)
        note = " **The extension was compiled from sources that differ from csrc.**" if is_outdated else ""
    for wheel in sorted((KIT / "wheels").glob("*.whl")):
        # The peer is the kit's in any case, in a known version.
        if wheel.name.lower().startswith("dcnv4-") or not is_installed(wheel.name.partition("-")[0]):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(WORK / "site")
    return f"build/gpu-kit is used: `{text}`.{note}"


def mismatch(made_for: dict, found: dict) -> str | None:
    """Why a kit for another machine cannot be used here; None if it is for one like this."""
    # As many numbers of each version as binary compatibility depends on.
    for name, title, count in (("python", "Python", 2), ("torch", "PyTorch", 2), ("cuda", "CUDA", 1)):
        if name not in made_for:
            return f"its kit.json has no entry {name!r}; prepare it again with `make gpu-kit`"
        if made_for[name].split(".")[:count] != str(found[name]).split(".")[:count]:
            return f"it is for {title} {made_for[name]}, and this is {found[name]}"
    if not runs_on(made_for["architectures"], found["capability"]):
        return f"it is for compute capability {made_for['architectures']}, and {found['gpu']} has {found['capability']}"
    return None


def runs_on(architectures: str, capability: str) -> bool:
    """Whether code compiled for a list of architectures, such as 8.0;9.0+PTX, runs on a GPU."""
    major, minor = map(int, capability.split("."))
    for each in architectures.split(";"):
        number, is_ptx = each.removesuffix("+PTX"), each.endswith("+PTX")
        compiled = tuple(map(int, number.rstrip("af").split(".")))
        if number.endswith("a"):  # features of this architecture alone
            if compiled == (major, minor):
                return True
        elif compiled <= (major, minor) and (compiled[0] == major or (is_ptx and not number.endswith("f"))):
            return True
    return False


def load_error(extension: Path) -> str | None:
    """The loader's message if an extension cannot be loaded here, otherwise None."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(extension)], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def replace_if_different(target: Path, source: Path) -> None:
    """Copy a file unless the target has the same bytes. An interruption leaves the target as it was."""
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    shutil.copy2(source, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def has_kernels(found: dict) -> bool:
    """Whether the extension can be loaded and has CUDA kernels."""
    return found["build"] is not None and bool(found["build"]["cuda"])


def build_if_needed(found: dict) -> Outcome | None:
    """Compile the extension if the one there has no CUDA kernels; None if it has."""
    if has_kernels(found):
        return None
    start = time.monotonic()
    log = WORK / "build.log"
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    status = run_limited(command, BUILD_SECONDS, log, FORCE_CUDA="1")
    if status == 0:
        return Outcome("passed", time.monotonic() - start)
    result = f"timed out after {BUILD_SECONDS} s" if status is None else f"failed ({status})"
    return Outcome(result, time.monotonic() - start, quoted(log.read_text(encoding="utf-8", errors="replace"), 60))


def file_name(gpu: str | None) -> str:
    """The report's name: gpu_nvidia_h100_80gb_hbm3.md."""
    return "gpu_" + (re.sub(r"[^a-z0-9]+", "_", gpu.lower()).strip("_") if gpu else "none") + ".md"


def describe_extension(found: dict) -> str:
    """Which extension was checked, or why there is none."""
    if found["extension"] is None:
        return "There is no extension."
    if found["error"] is not None:
        return f"The extension cannot be loaded: {found['error']}."
    kernels = found["build"]["cuda_architectures"] if has_kernels(found) else "CPUs only"
    digest = hashlib.sha256(Path(found["extension"]).read_bytes()).hexdigest()
    return f"The extension has kernels for {kernels}; its sha256 is `{digest}`."


def render(found: dict, kit: str | None, outcomes: dict[str, Outcome], titles: dict[str, str]) -> str:
    """The report in Markdown."""
    lines = [
        f"# GPU check: {found['gpu'] or 'no GPU'}",
        "",
        f"torch {found['torch']}, CUDA {found['cuda']}, Python {found['python']}. Written by `make gpu`.",
        "",
        " ".join(filter(None, [describe_extension(found), kit])),
        "",
        "| part | result | seconds |",
        "| --- | --- | ---: |",
        *(f"| {titles[name]} | {each.result} | {each.seconds:.0f} |" for name, each in outcomes.items()),
    ]
    for name, outcome in outcomes.items():
        if outcome.details:
            lines += ["", f"## {titles[name]}", "", outcome.details]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--output", type=Path, help="folder of the report")
    options = parser.parse_args()

    WORK.mkdir(parents=True, exist_ok=True)
    found = describe()
    outcomes: dict[str, Outcome] = {}
    kit = None
    titles = {"build": "Build"} | {name: part.title for name, part in PARTS.items()}
    if found["gpu"] is None:
        outcomes = {name: Outcome("skipped: no GPU is visible to PyTorch") for name in options.parts}
    else:
        kit = unpack_kit(found)
        if kit is not None:
            print(kit)
        built = build_if_needed(describe())
        if built is not None:
            outcomes["build"] = built
            print(f"build: {built.result}", flush=True)
        found = describe()
    # Without a GPU there is no result to keep.
    output = options.output or (RESULTS if found["gpu"] else WORK)
    output.mkdir(parents=True, exist_ok=True)
    path = output / file_name(found["gpu"])
    for name in options.parts:
        if name not in outcomes:
            outcomes[name] = run_part(name, PARTS[name])
        print(f"{name}: {outcomes[name].result} ({outcomes[name].seconds:.0f} s)", flush=True)
        # After each part, so that an abort loses no results.
        path.write_text(render(found, kit, outcomes, titles), encoding="utf-8")
    print(f"report: {path}")
    return int(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
