"""Utilities of the accuracy benchmarks: running a command in its own process, and the metrics of an evaluation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from flash_internimage.evaluation.saved import read_evaluation


def flash_internimage(*arguments: str) -> None:
    """Run a command of ``flash-internimage``; its output goes to the standard error, because tables go to the standard output.

    Raises:
        SystemExit: the command failed.
    """
    command = [sys.executable, "-m", "flash_internimage", *arguments]
    if code := subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(code)


def metrics(folder: Path, task: str) -> dict[str, Any] | None:
    """Return the metrics of an evaluation in ``folder``, in percent; None for a model that does not perform the task.

    Args:
        folder: output folder of the run.
        task: ``"bbox"`` or ``"segm"``.
    """
    found = read_evaluation(folder)[0]["tasks"].get(task)
    return found and found["metrics"]
