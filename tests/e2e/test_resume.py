"""A run that is killed while it saves, and resumed, ends with the weights of one that was not, bit for bit."""

import os
import signal
import sys

import pytest
import torch

from tests.e2e.conftest import run_python

CONFIG = "tests/engine/tiny_config.py"

# Kills itself while it writes the second checkpoint, as a time limit or a power cut may. A checkpoint is followed
# by the note of its name, so the third file. The log's files are synchronized too, and do not count.
KILLED = """
import os, signal, sys
import train_net

files, original = 0, os.{function}

def stop(*args, **kwargs):
    global files
    files += sys._getframe(1).f_code.co_name == "write_atomically"
    if files == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)

os.{function} = stop
train_net.main(sys.argv[1:])
"""


def load(path):
    return torch.load(path, weights_only=True)


def tensors(tree, prefix=""):
    """All tensors in nested dictionaries and lists, by their place."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    return {place: value for key, child in children for place, value in tensors(child, f"{prefix}/{key}").items()}


def assert_same(first, second):
    assert first["iteration"] == second["iteration"]
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    different = [place for place, value in first.items() if not torch.equal(value, second[place])]
    assert different == []


OPTIONS = ["train.ema.enabled=true", "train.accumulation_steps=2", "train.clip_grad.max_norm=1", "train.checkpointer.period=2"]


@pytest.fixture
def whole(train_net, tmp_path):
    assert train_net("--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/whole").returncode == 0
    return load(tmp_path / "whole/model_final.pth")


@pytest.mark.parametrize(
    "function",
    [pytest.param("fsync", id="before the file is on the disk"), pytest.param("replace", id="before it is renamed")],
)
def test_killed_while_saving(train_net, whole, tmp_path, function):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(function=function))
    folder = tmp_path / "run"
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={folder}", "train.best_checkpoint.metric=null"]
    killed = run_python(script, *argv, PYTHONPATH=os.pathsep.join([".", *sys.path]))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "model_final.pth").exists()
    previous = (folder / "last_checkpoint").read_text()
    assert load(folder / previous)["iteration"] == 1
    assert len(list(folder.glob(".*"))) == 1  # what it was writing

    resumed = train_net(*argv, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "Training from iteration 2 to 8" in resumed.stdout
    assert_same(load(folder / "model_final.pth"), whole)
    assert list(folder.glob(".*")) == []


def test_stopped_halfway_and_resumed_to_twice_as_far(train_net, whole, tmp_path):
    # The schedule is a function of the length of the run, so the first half is told the whole length and is stopped.
    folder = tmp_path / "run"
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={folder}"]
    assert train_net(*argv, "model.bad_iteration=8").returncode == 1  # NaN in the fifth step, of two parts each
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert train_net(*argv, "--resume").returncode == 0
    assert_same(load(folder / "model_final.pth"), whole)


def test_resume_after_the_end_changes_nothing(train_net, whole, tmp_path):
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/whole", "--resume"]
    done = train_net(*argv)
    assert done.returncode == 0, done.stderr
    assert_same(load(tmp_path / "whole/model_final.pth"), whole)


def test_resume_without_a_checkpoint_starts_and_says_so(train_net, whole, tmp_path):
    done = train_net("--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/new", "--resume")
    assert f"--resume: no checkpoint in {tmp_path}/new, the run starts from its beginning" in done.stdout
    assert_same(load(tmp_path / "new/model_final.pth"), whole)
