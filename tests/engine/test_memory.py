"""Peak memory of the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json
import torch
from flash_internimage.engine.memory import peak_memory, reset_peak_memory

device = torch.device("cpu")
can_reset = reset_peak_memory(device)
before = peak_memory(device)
torch.ones(50_000_000)  # 200 MB
torch.ones(25_000_000)
peak = peak_memory(device)
small = [torch.ones(20_000) for _ in range(2_500)]  # 200 MB in pieces that glibc keeps for reuse after they are freed
last = small.pop()
del small
reset_peak_memory(device)
print(json.dumps([can_reset, before, peak, peak_memory(device)]))
"""


def test_peak_memory_is_that_of_simultaneous_allocations(repository: Path):
    # A new process: memory that earlier tests left for reuse would hide these allocations.
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    can_reset, before, peak, after_reset = json.loads(output.splitlines()[-1])
    if not can_reset:
        pytest.skip("the peak cannot be reset on this system")
    assert 190e6 < peak - before < 260e6
    assert after_reset - before < 50e6
