"""Peak memory of a GPU or of the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from pathlib import Path

import torch


def reset_peak_memory(device: torch.device) -> bool:
    """Reset the peak memory to the memory in use now; return whether this is possible (on a CPU: only on Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    # Memory that was freed but that glibc keeps for reuse would count as used.
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak RSS: man 5 proc
    except OSError:
        return False
    return True


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes since the last :func:`reset_peak_memory`; None if unavailable (CPU on Windows).

    Args:
        device: for a GPU, the memory allocated by PyTorch is reported; for the CPU, the peak RSS of the process, including
            Python and all libraries.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return _max_rss()
    return int(found[1]) * 1024 if found else _max_rss()


def _max_rss() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, other systems KiB
