"""The same run started by flags, by torchrun and by SLURM: two processes on the CPU, over gloo."""

import subprocess
import sys

import pytest
import torch

from tests.e2e.conftest import REPOSITORY, run_python
from tests.e2e.test_resume import load
from tests.programs import clean_environment

pytestmark = pytest.mark.slow

CONFIG = "tests/engine/tiny_config.py"
# With neither dropout nor statistics of the batch, two processes compute what one does, up to the order of sums.
SHORT = ["--config-file", CONFIG, "train.max_iter=4", "train.eval_period=0", "model.dropout=0.0"]


def by_flags(*argv):
    return run_python("train_net.py", *argv, "--num-gpus", 2)


def by_torchrun(*argv):
    return run_python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train_net.py", *argv)


def by_slurm(*argv):
    """Two tasks as srun starts them, and what the first of them returned."""
    job = {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": "7461"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "train_net.py", *map(str, argv)],
            cwd=REPOSITORY,
            env={**clean_environment(), **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = []
    for task in tasks:
        output, errors = task.communicate(timeout=300)
        results.append(subprocess.CompletedProcess(argv, task.returncode, output, errors))
    return results[0]


@pytest.mark.parametrize("start", [by_flags, by_torchrun, by_slurm])
def test_two_processes_run_as_one(start, tmp_path):
    done = start(*SHORT, f"train.output_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Process 0 of 2 on cpu" in (tmp_path / "log.txt").read_text()
    assert "Process 1 of 2 on cpu" in (tmp_path / "log.txt.rank1").read_text()
    checkpoint = load(tmp_path / "model_final.pth")
    assert checkpoint["iteration"] == 3
    assert all(torch.isfinite(value).all() for value in checkpoint["model"].values())


def test_nan_in_one_process_ends_both(tmp_path):
    done = by_flags(*SHORT, "model.bad_iteration=2", f"train.output_dir={tmp_path}")
    assert done.returncode == 1
    assert "train_net.py: error: loss not finite: loss_box is nan at iteration 2 in process 0, on the images" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_is_told_once(tmp_path):
    done = by_torchrun(*SHORT, "train.max_itr=1", f"train.output_dir={tmp_path}/output")
    assert done.returncode != 0
    assert done.stderr.count("did you mean train.max_iter?") == 1
    assert not (tmp_path / "output").exists()
