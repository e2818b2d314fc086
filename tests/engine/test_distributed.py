"""Ranks and devices from torchrun, SLURM and the command line; tests/e2e starts real processes."""

import pytest
import torch

from flash_internimage.engine import distributed
from flash_internimage.engine.distributed import Process, first_host, from_environment, launch, resolve_device

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
SLURM = {
    "SLURM_PROCID": "9",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_NNODES": "2",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
    "SLURM_JOB_ID": "15007",
}


def test_no_launcher():
    assert from_environment({"PATH": "/bin"}) is None


def test_torchrun():
    assert from_environment(TORCHRUN) == Process(5, 8, 1, 4, "env://")


def test_slurm():
    assert from_environment(SLURM) == Process(9, 16, 1, 8, "tcp://gpu03:15007")


def test_slurm_step_with_fewer_tasks_than_the_job():
    step = {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "x7"}
    assert from_environment({**step, "SLURM_LOCALID": "3"}) == Process(3, 4, 3, 4, "tcp://x7:15007")


def test_torchrun_takes_precedence_over_slurm():
    assert from_environment({**SLURM, **TORCHRUN}).init_method == "env://"


def test_explicit_address_takes_precedence():
    assert from_environment({**SLURM, "MASTER_ADDR": "head", "MASTER_PORT": "77"}).init_method == "tcp://head:77"


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node7", "node7"),
        ("gpu[03-05,09],cpu1", "gpu03"),
        ("a1,b2", "a1"),
        ("rack[2,4]-ib", "rack2-ib"),
        ("", ""),
    ],
)
def test_first_host(nodes, host):
    assert first_host(nodes) == host


def test_error_for_an_invalid_environment_names_the_variable():
    with pytest.raises(ValueError, match="environment variable LOCAL_RANK: expected a number.*got None"):
        from_environment({"RANK": "1", "WORLD_SIZE": "2"})
    with pytest.raises(ValueError, match="environment variable RANK: expected a number.*got 'x'"):
        from_environment({**TORCHRUN, "RANK": "x"})


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_is_the_gpu_with_the_local_rank(two_gpus):
    assert resolve_device("auto", local_rank=1) == torch.device("cuda", 1)


def test_auto_is_the_cpu_without_a_gpu(no_gpu):
    assert resolve_device("auto", local_rank=1) == torch.device("cpu")


def test_missing_gpu(no_gpu):
    with pytest.raises(ValueError, match="train.device=cuda: process 0 of this machine needs GPU 0, PyTorch sees 0"):
        resolve_device("cuda")


def test_more_processes_than_gpus(two_gpus):
    with pytest.raises(ValueError, match="process 2 of this machine needs GPU 2, PyTorch sees 2"):
        launch(print, (), device="auto", num_processes=3)


def test_unknown_device():
    with pytest.raises(ValueError, match="train.device=gpu: expected auto, cpu, cuda"):
        resolve_device("gpu")


@pytest.fixture
def plain_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_single_process_is_not_spawned(plain_environment):
    called = []
    launch(lambda device, *args: called.append((device, args)), ("a", 1), device="cpu")
    assert called == [(torch.device("cpu"), ("a", 1))]


def test_flags_determine_the_processes_of_this_machine(plain_environment, monkeypatch):
    started = []
    monkeypatch.setattr(distributed, "_spawn", lambda processes, *rest: started.append(processes))
    launch(print, (), device="cpu", num_processes=2, num_machines=3, machine_rank=1, dist_url="tcp://h:1")
    assert started == [[Process(2, 6, 0, 2, "tcp://h:1"), Process(3, 6, 1, 2, "tcp://h:1")]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_machines": 2}, "several machines need --dist-url"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank 2: expected 0 to 1, for --num-machines 2"),
    ],
)
def test_inconsistent_flags(plain_environment, flags, message):
    with pytest.raises(ValueError, match=message):
        launch(print, (), device="cpu", **flags)
