"""The commands of ``flash-internimage``, one module each."""

import os

from flash_internimage.packages import ignore_script_warnings

PROGRAM = "flash-internimage"

# Threads that spin while they wait take CPU time from the threads they wait for when another program uses the cores too:
# evaluation was seen to become fifteen times slower. OpenMP reads this variable when torch is imported, and every command
# imports this package first.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ignore_script_warnings()
