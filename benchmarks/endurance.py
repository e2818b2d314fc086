"""Endurance of training runs: killed and stopped processes, full disks, full shared memory, memory over 1,000 iterations.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/endurance.py [WORD]

WORD selects the checks whose functions have it in their names.
Linux only; the checks on full file systems need root, for a tmpfs in a private mount namespace, and are skipped without it.
Runs are forked from this process, which has imported everything. Exits with 1 if a check fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measuring import machine

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.cli.errors import reported
from flash_internimage.data import loader
from flash_internimage.data.shapes import annotation_file, make_shapes, write_split
from flash_internimage.engine.config import load_config, save_config
from flash_internimage.engine.writers import MetricsWriter, TensorBoardWriter
from flash_internimage.evaluation.saved import write_json
from flash_internimage.files import write_atomically
from tests.e2e.conftest import data_overrides
from tests.forked import FORK, Forked, call_main, children, is_running, wait_until

TINY = ["--config-file", "tests/engine/tiny_config.py"]
NANO = ["--config-file", "configs/shapes/mask_rcnn_flash_internimage_nano.py", "dataloader.train.total_batch_size=2"]
LONG = [
    *TINY,
    "train.max_iter=1000",
    "train.checkpointer.period=10",
    "train.eval_period=40",
    "train.log_period=5",
    "train.ema.enabled=true",
    "train.clip_grad.max_norm=1",
]
CLONE_NEWNS = 0x00020000
MIB = 2**20

Row = tuple[str, str, bool]


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def tensors(tree: object, place: str = "") -> dict[str, torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return {place: tree}
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {key: tensor for name, child in pairs for key, tensor in tensors(child, f"{place}/{name}").items()}


def count_equal(folder: Path, whole: Path) -> tuple[int, int]:
    """Return how many tensors of the final and the best checkpoint are bit-equal, and how many there are."""
    equal = total = 0
    for name in ("model_final.pth", "model_best.pth"):
        first, second = tensors(load(folder / name)), tensors(load(whole / name))
        total += len(second)
        equal += sum(key in first and torch.equal(first[key], tensor) for key, tensor in second.items())
    return equal, total


def interrupted(scratch: Path, whole: Path, number: signal.Signals, times: int, *arguments: str) -> Row:
    """Interrupt a run at random times and resume it each time; compare its end with that of an uninterrupted run."""
    folder = scratch / f"{number.name}-{len(arguments)}"
    folder.mkdir()
    chance = random.Random(int(number))
    codes: list[int] = []
    while len(codes) < times:
        run = Forked(folder, *LONG, "--resume", *arguments)
        if len(codes) % 2:  # every other time at any moment, otherwise during training
            time.sleep(chance.uniform(0, 2))
        else:
            before = _size(folder / "metrics.json")
            with contextlib.suppress(TimeoutError):
                wait_until(partial(_has_started, run, folder / "metrics.json", before), 30)
            time.sleep(chance.uniform(0, 0.3))
        if is_running(run.pid):
            os.kill(run.pid, number)
            codes.append(run.finish()[0])
        elif run.finish()[0] != 0 or _done(folder):
            break
    first = len(codes)
    finished = Forked(folder, *LONG, "--resume", *arguments).finish(300)
    equal, total = count_equal(folder, whole)
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    readable = sum(_is_json(line) for line in lines)
    counts = ", ".join(f"{codes.count(code)}x {code}" for code in sorted(set(codes)))
    result = f"exit codes {counts}; {equal} of {total} tensors bit-equal; {readable} of {len(lines)} metrics lines readable"
    expected = {-number, 75} if number == signal.SIGTERM else {-number}
    good = finished[0] == 0 and first == times and set(codes) <= expected and equal == total and readable == len(lines)
    return f"{times} x {number.name}{' to the launcher of two processes' if arguments else ''}, each resumed", result, good


def _has_started(run: Forked, metrics: Path, before: int) -> bool:
    return not is_running(run.pid) or _size(metrics) > before


def _done(folder: Path) -> bool:
    return (folder / "model_final.pth").exists()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_json(line: str) -> bool:
    try:
        return "iteration" in json.loads(line)
    except ValueError:
        return False


def private_tmpfs(folder: Path, size: int, full: bool = True) -> None:
    """Mount a tmpfs for this process only, with ``size`` bytes left."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or os.system(f"mount --make-rprivate / && mount -t tmpfs -o size=4m none {folder}"):
        raise OSError(ctypes.get_errno(), "a tmpfs cannot be mounted")
    if full:
        (folder / "filler").write_bytes(bytes(4 * MIB - size))


def full_disk(scratch: Path) -> list[Row]:
    """Let each writer write 2 MiB to a disk with 0.25 MiB left."""
    model = torch.nn.Linear(1, 2**19, bias=False)
    text = "x" * 2 * MIB
    folder = scratch / "full"
    folder.mkdir()
    cfg = load_config("tests/engine/tiny_config.py")
    big = {**dict(cfg.train), "output_dir": text}

    def metrics() -> None:
        from detectron2.utils.events import EventStorage

        with EventStorage(0) as storage:
            storage.put_scalars(**{f"loss_{'x' * 1000}_{i}": 1.0 for i in range(2000)})
            MetricsWriter(folder / "metrics.json").write()

    def tensorboard() -> None:
        from detectron2.utils.events import EventStorage

        writer = TensorBoardWriter(str(folder))
        with EventStorage(0) as storage:
            storage.put_scalars(**{f"loss_{'x' * 1000}_{i}": 1.0 for i in range(2000)})
            writer.write()
            writer.close()

    cfg.train = big
    writers: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: Checkpointer(model, str(folder)).save("model_final"),
        "config.yaml": lambda: save_config(cfg, str(folder / "config.yaml")),
        "metrics.json": metrics,
        "TensorBoard events": tensorboard,
        "predictions": lambda: write_json(folder / "coco_instances_results.json", [text]),
        "report.html": lambda: write_atomically(folder / "report.html", lambda path: path.write_text(text, encoding="utf-8")),
        "dataset drawing": lambda: make_shapes(folder / "shapes"),
    }
    return [_full_disk(name, write, folder, scratch) for name, write in writers.items()]


def _full_disk(name: str, write: Callable[[], object], folder: Path, scratch: Path) -> Row:
    errors, listing = scratch / "stderr.txt", scratch / "listing.txt"

    def main() -> int:
        private_tmpfs(folder, MIB // 4)
        (folder / "last_checkpoint").write_text("model_0000099.pth", encoding="utf-8")
        try:
            with reported("program"):
                write()
        finally:
            left = {path.name for path in folder.iterdir()} - {"filler", "last_checkpoint"}
            kept = (folder / "last_checkpoint").read_text(encoding="utf-8") == "model_0000099.pth"
            listing.write_text(json.dumps([sorted(left), kept]), encoding="utf-8")
        return 0

    process = FORK.Process(target=call_main, args=(main, errors))
    process.start()
    process.join(120)
    process.kill()
    process.join()
    lines = [line for line in errors.read_text(encoding="utf-8").splitlines() if line]
    left, kept = json.loads(listing.read_text(encoding="utf-8"))
    appended = [file for file in left if not file.startswith(("metrics.json", "events"))]
    one_line = len(lines) == 1 and "cannot be written, since " in lines[0]
    good = process.exitcode == 1 and one_line and kept and not appended
    return f"disk full: {name}", f"exit code {process.exitcode}: `{_short(lines, folder)}`", good


def _short(lines: list[str], folder: Path | None = None) -> str:
    line = lines[-1] if lines else "no message"
    line = line.replace(f"{folder}/", "") if folder else line
    line = re.sub(r"(process|pid) \d+", r"\1 N", line.split("error: ", 1)[-1])
    return re.sub(r"tfevents[\w.]+", "tfevents", line).split("; ")[0]


def full_disk_in_a_run(scratch: Path) -> Row:
    """Resume a run on a disk that is full, then again after space was made; the checkpoint before must load."""
    folder, errors, outcome = scratch / "run", scratch / "stderr.txt", scratch / "outcome.txt"
    folder.mkdir()
    wide = [*TINY, "model.width=800"]  # checkpoints of 0.4 MiB

    def main() -> int:
        import train_net

        def train(*arguments: str) -> int:
            try:
                return train_net.main([*wide, f"train.output_dir={folder}/run", *arguments])
            except SystemExit as end:
                return int(end.code or 0)

        private_tmpfs(folder, 0, full=False)
        train("model.bad_iteration=4", "train.best_checkpoint.metric=null")
        size = (folder / "run" / "model_0000003.pth").stat().st_size
        free = shutil.disk_usage(folder).free
        (folder / "filler").write_bytes(bytes(free - size // 2))
        code = train("--resume", "train.best_checkpoint.metric=null")
        named = (folder / "run" / "last_checkpoint").read_text(encoding="utf-8")
        loads = load(folder / "run" / named)["iteration"] == 3
        (folder / "filler").unlink()
        again = train("--resume", "train.best_checkpoint.metric=null")
        outcome.write_text(json.dumps([code, named, loads, again]), encoding="utf-8")
        return 0

    process = FORK.Process(target=call_main, args=(main, errors))
    process.start()
    process.join(120)
    process.kill()
    process.join()
    code, named, loads, again = json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else (None, "", False, None)
    result = f"exit code {code}; {named} {'loads' if loads else 'does not load'}; resumed with space: exit code {again}"
    return "disk full in a run, at its second checkpoint", result, code == 1 and loads and again == 0


def killed_rank(scratch: Path) -> Row:
    folder = scratch / "rank"
    folder.mkdir()
    faults = ["dataloader.train.signals=[SIGKILL]", "dataloader.train.signal_rank=1"]
    code, text = Forked(folder, *TINY, "--num-gpus=2", *faults).finish()
    lines = text.splitlines()
    good = code == 1 and "Traceback" not in text and "process 1 of this machine was killed by SIGKILL" in lines[-1]
    return "a process of two is killed", f"exit code {code}: `{_short(lines)}`", good


def killed_launcher(scratch: Path) -> Row:
    folder = scratch / "launcher"
    folder.mkdir()
    run = Forked(folder, *LONG, "--num-gpus=2", "train.max_iter=1000000")
    wait_until(lambda: _size(folder / "metrics.json") > 0)
    ranks = children(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    start = time.monotonic()
    run.finish()
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not any(map(is_running, ranks)), 30)
    left = sum(map(is_running, ranks))
    for rank in filter(is_running, ranks):
        os.kill(rank, signal.SIGKILL)
    return "the launcher of two is killed", f"{left} processes left after {time.monotonic() - start:.1f} s", left == 0


def own_data(scratch: Path) -> list[str]:
    for split, size in (("train", 6), ("val", 3)):
        write_split(scratch / "data", split, size)
    assert annotation_file(scratch / "data", "train").is_file()
    return [*NANO, *data_overrides(scratch / "data"), "train.eval_period=0", "train.log_period=1", "train.device=cpu"]


def killed_worker(scratch: Path, nano: list[str]) -> Row:
    folder = scratch / "worker"
    folder.mkdir()
    run = Forked(folder, *nano, "dataloader.train.num_workers=1")
    wait_until(lambda: not is_running(run.pid) or _size(folder / "metrics.json") > 0, 120)
    for worker in children(run.pid):
        os.kill(worker, signal.SIGKILL)
    code, text = run.finish()
    lines = text.splitlines()
    good = code == 1 and len(lines) == 1 and "a loader worker (process " in lines[0] and "was killed" in lines[0]
    return "a loader worker is killed", f"exit code {code}: `{_short(lines)}`", good


def full_shared_memory(scratch: Path, nano: list[str], later: bool) -> Row:
    """Start workers with a full ``/dev/shm``, or let it fill up after the check."""
    folder = scratch / f"memory-{later}"
    folder.mkdir()

    def before() -> None:
        private_tmpfs(Path("/dev/shm"), MIB // 16)
        if later:
            loader.require_shared_memory = lambda *arguments: None
            loader.TIMEOUT_SECONDS = 5

    code, text = Forked(folder, *nano, "dataloader.train.num_workers=2", before=before).finish()
    lines = [line for line in text.splitlines() if line.startswith("train_net.py: error: ")]
    expected = "delivered no batch|shared memory" if later else "of shared memory"
    good = code == 1 and len(lines) == 1 and re.search(expected, lines[0]) is not None
    return f"/dev/shm {'fills up in a run' if later else 'is full at the start'}", f"exit code {code}: `{_short(lines)}`", good


def flat_memory(scratch: Path) -> Row:
    """Sample memory, file descriptors and threads of a run of 1,000 iterations, with checkpoints and evaluations."""
    folder = scratch / "flat"
    folder.mkdir()
    changes = ["train.max_iter=1000", "train.checkpointer.period=50", "train.eval_period=100"]
    run = Forked(folder, *LONG, *changes)
    samples: dict[int, tuple[float, int, int]] = {}
    while is_running(run.pid):
        with contextlib.suppress(OSError, ValueError, IndexError, KeyError, TypeError):  # it is ending
            iteration = json.loads((folder / "metrics.json").read_text(encoding="utf-8").splitlines()[-1])["iteration"]
            status = Path(f"/proc/{run.pid}/status").read_text(encoding="utf-8")
            memory = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
            threads = int(re.search(r"Threads:\s+(\d+)", status)[1])
            samples[iteration] = memory, len(os.listdir(f"/proc/{run.pid}/fd")), threads
        time.sleep(0.1)
        if run.process.exitcode is not None:
            break
    code, _ = run.finish()
    early = samples[min(i for i in samples if i >= 200)]
    last = max(i for i in samples if i < 990)  # then the writers are closed
    late = samples[last]
    result = (
        f"exit code {code}; after 200 and {last + 1} iterations: {early[0]:.0f} and {late[0]:.0f} MiB, "
        f"{early[1]} and {late[1]} file descriptors, {early[2]} and {late[2]} threads"
    )
    return "1,000 iterations", result, code == 0 and late[0] - early[0] < 16 and late[1:] == early[1:]


def main() -> int:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        scratch = Path(name)
        rows: list[Row] = []
        for check in _checks(scratch, word):
            try:
                found = check()
            except Exception as error:
                found = (check.func.__name__, f"the check failed: {error!r}", False)
            found = [found] if isinstance(found, tuple) else found
            for row in found:
                print(*row, file=sys.stderr, flush=True)
            rows += found
    print(machine(), "\n")
    print("| check | result | |\n| --- | --- | --- |")
    for title, result, good in rows:
        print(f"| {title} | {result} | {'passed' if good else 'FAILED'} |")
    return 0 if all(good for *_, good in rows) else 1


def _checks(scratch: Path, word: str) -> list[partial[Row] | partial[list[Row]]]:
    """Return the checks whose function has ``word`` in its name, and prepare what they need."""
    whole, two = scratch / "whole", scratch / "whole-two"
    nano = own_data(scratch)
    checks: list[partial[Row] | partial[list[Row]]] = [
        partial(flat_memory, scratch),
        partial(interrupted, scratch, whole, signal.SIGKILL, 25),
        partial(interrupted, scratch, whole, signal.SIGTERM, 10),
        partial(interrupted, scratch, two, signal.SIGTERM, 3, "--num-gpus=2"),
        partial(killed_rank, scratch),
        partial(killed_launcher, scratch),
        partial(killed_worker, scratch, nano),
    ]
    if os.geteuid() == 0:
        checks += [
            partial(full_shared_memory, scratch, nano, later=False),
            partial(full_shared_memory, scratch, nano, later=True),
            partial(full_disk_in_a_run, scratch),
            partial(full_disk, scratch),
        ]
    checks = [check for check in checks if word in check.func.__name__]
    if any(check.func is interrupted for check in checks):
        for folder, arguments in ((whole, []), (two, ["--num-gpus=2"])):
            folder.mkdir()
            code, text = Forked(folder, *LONG, *arguments).finish(300)
            assert code == 0, text
    return checks


if __name__ == "__main__":
    sys.exit(main())
