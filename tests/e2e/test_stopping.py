"""Runs that are stopped by a signal, with a checkpoint, and runs of which a process is killed."""

import os
import signal

import pytest

from tests.e2e.test_resume import assert_same, load
from tests.engine.tiny import TinyEvaluator
from tests.forked import Forked, children, is_running, wait_until

CONFIG = "tests/engine/tiny_config.py"
STOPPED = "stopped by SIGTERM after iteration 5, with a checkpoint; continue with --resume\n"

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux"),
    pytest.mark.usefixtures("interruptible"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert Forked(folder, "--config-file", CONFIG).finish() == (0, "")
    return folder


def assert_same_end(folder, whole):
    for name in ("model_final.pth", "model_best.pth"):
        assert_same(load(folder / name), load(whole / name))
    assert (folder / "model_best.json").read_text() == (whole / "model_best.json").read_text()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_signal_stops_a_run_with_a_checkpoint_after_the_iteration(train_net, whole, tmp_path, name, code):
    argv = ["--config-file", CONFIG, f"train.output_dir={tmp_path}"]
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    stopped = train_net(*argv, f"dataloader.train.signals=[{name}]")
    assert stopped.returncode == code
    assert stopped.stderr.endswith(
        f"train_net.py: stopped by {name} after iteration 5, with a checkpoint; continue with --resume\n"
    )
    assert stopped.stderr.count("\n") == 1
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    assert train_net(*argv, "--resume").returncode == 0
    assert_same_end(tmp_path, whole)


def test_second_interrupt_stops_at_once(train_net, tmp_path):
    stopped = train_net("--config-file", CONFIG, f"train.output_dir={tmp_path}", "dataloader.train.signals=[SIGINT,SIGINT]")
    assert (stopped.returncode, stopped.stderr) == (130, "")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"


def test_signal_in_an_evaluation_stops_it_and_it_is_made_up_for(train_net, whole, tmp_path, monkeypatch):
    argv = ["--config-file", CONFIG, f"train.output_dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(TinyEvaluator, "process", lambda self, inputs, outputs: os.kill(os.getpid(), signal.SIGTERM))
        stopped = train_net(*argv)
    assert stopped.returncode == 75
    assert "stopped by SIGTERM after iteration 3" in stopped.stderr
    resumed = train_net(*argv, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "Evaluating first, as the run ended before the evaluation after iteration 3 had finished" in resumed.stdout
    assert_same_end(tmp_path, whole)
    again = train_net(*argv, "--resume", "train.max_iter=10")
    assert "Evaluating first" not in again.stdout  # that after iteration 7 has finished


def test_signal_to_one_of_two_processes_stops_both(tmp_path):
    run = Forked(
        tmp_path,
        "--config-file",
        CONFIG,
        "--num-gpus=2",
        "dataloader.train.signals=[SIGTERM]",
        "dataloader.train.signal_rank=1",
    )
    assert run.finish() == (75, f"train_net.py: {STOPPED}")
    assert load(tmp_path / "model_0000005.pth")["iteration"] == 5


def test_killed_process_is_one_line(tmp_path):
    run = Forked(
        tmp_path,
        "--config-file",
        CONFIG,
        "--num-gpus=2",
        "dataloader.train.signals=[SIGKILL]",
        "dataloader.train.signal_rank=1",
    )
    code, text = run.finish()
    assert code == 1
    assert "Traceback" not in text
    assert text.splitlines()[-1] == (
        "train_net.py: error: process 1 of this machine was killed by SIGKILL; the usual cause is that the machine has run "
        "out of memory; continue with --resume"
    )


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_processes_end_with_their_parent(tmp_path, name):
    long = ["train.max_iter=1000000", "train.checkpointer.period=1000000", "train.eval_period=0"]
    run = Forked(tmp_path, "--config-file", CONFIG, "--num-gpus=2", *long)
    metrics = tmp_path / "metrics.json"
    wait_until(lambda: not is_running(run.pid) or (metrics.is_file() and metrics.stat().st_size))
    ranks = children(run.pid)
    assert len(ranks) == 2
    os.kill(run.pid, signal.Signals[name])
    code, _ = run.finish()
    assert code == (75 if name == "SIGTERM" else -signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, ranks)))
