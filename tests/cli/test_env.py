"""The report of versions and build flags."""

import torch

from flash_internimage.collect_env import collect_env


def test_prints_one_line_per_row(flash_internimage):
    done = flash_internimage("env")
    assert done.returncode == 0
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == list(collect_env())
    assert torch.__version__ in done.stdout
