"""Fuzzing of the readers: mutated files may raise only the package's own errors, in bounded memory and time.

    python -m tests.hostile.fuzz --minutes 5
    python -m tests.hostile.fuzz --readers config image
    python -m tests.hostile.fuzz --readers config --seed 7 --case 1234      # repeats one case, after a failure

The readers run in a separate process with a memory limit. A case that takes too long, or ends the process, is a
failure like any other exception.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

MEMORY = 2 << 30  # bytes beyond those of the process with everything imported
SECONDS = 60  # of one case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="how long (5)")
    parser.add_argument("--cases", type=int, help="stop after this many cases of each reader instead")
    parser.add_argument("--readers", nargs="+", help="only these")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--case", type=int, help="only this case, with the traceback of whatever comes out")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the folder, in the process with the readers
    options = parser.parse_args()
    if options.inside is not None:
        return run(options)
    folder = Path(tempfile.mkdtemp())
    try:
        command = [sys.executable, "-W", "ignore", "-m", "tests.hostile.fuzz", *sys.argv[1:], "--inside", str(folder)]
        environment = {**os.environ, "FLASH_INTERNIMAGE_MAX_IMAGE_PIXELS": "1000000", "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, env=environment).returncode
        if code:
            last = (folder / "case").read_text() if (folder / "case").exists() else "(before the first case)"
            print(f"failed with exit code {code} at: python -m tests.hostile.fuzz {last}")
        return 1 if code else 0
    finally:
        shutil.rmtree(folder)


def run(options: argparse.Namespace) -> int:
    """Read mutated files until the time is over; return 1 if there are failures, of which each kind is printed once."""
    from flash_internimage.errors import UserError

    from .readers import readers

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    known = {name: reader for name, reader in readers(options.inside).items() if name in (options.readers or [name])}
    _limit_memory()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also inside of compiled code
    (options.inside / "read").mkdir()
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for reader in known.values():
        for valid in reader.valid:  # an error here is a mistake of the fuzzer
            path = options.inside / "read" / f"file{valid.suffix}"
            shutil.copyfile(valid, path)
            reader.read(path)
    end = time.monotonic() + 60 * options.minutes
    for number, name in ((number, name) for number in _numbers(options) for name in known):
        if options.cases is None and options.case is None and time.monotonic() > end:
            break
        reader = known[name]
        choose = random.Random(f"{options.seed} {name} {number}")
        valid = choose.choice(reader.valid)
        path = options.inside / "read" / f"file{valid.suffix}"
        path.write_bytes(reader.mutate(choose, valid.read_bytes()))
        (options.inside / "case").write_text(f"--readers {name!r} --seed {options.seed} --case {number}")
        signal.alarm(SECONDS)
        try:
            reader.read(path)
            counts[f"{name}: read"] += 1
        except UserError as error:
            counts[f"{name}: refused"] += 1
            if options.case is not None:
                traceback.print_exc()
            if not str(error) or len(str(error)) > 10_000:
                failures[f"{name}: a message of {len(str(error))} characters"] += 1
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{name}: {type(error).__name__} in {place.filename}:{place.lineno}"
            failures[kind] += 1
            if failures[kind] == 1:
                print(f"\n{(options.inside / 'case').read_text()}", file=sys.stderr)
                traceback.print_exc()
        finally:
            signal.alarm(0)
    for outcome, count in sorted((counts + failures).items()):
        print(f"{outcome:40} {count:8,}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{sum(counts.values()):,} files, {sum(failures.values())} failures; peak memory {peak:,.0f} MB")
    return 1 if failures else 0


def _numbers(options: argparse.Namespace) -> Iterable[int]:
    if options.case is not None:
        return [options.case]
    return itertools.count() if options.cases is None else range(options.cases)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


if __name__ == "__main__":
    sys.exit(main())
