"""A run that is killed while it saves, and resumed, ends with the weights of one that was not, bit for bit."""

import json
import os
import signal
import sys

import pytest
import torch

from tests.e2e.conftest import data_overrides, run_python

CONFIG = "tests/engine/tiny_config.py"

# Kills itself while it writes the second checkpoint, as a time limit or a power cut may. The config comes first, and
# a checkpoint is followed by the note of its name, so the fourth file. The log's files are synchronized too, and do not count.
KILLED = """
import os, signal, sys
import train_net

files, original = 0, os.{function}

def stop(*args, **kwargs):
    global files
    files += sys._getframe(1).f_code.co_name == "write_atomically"
    if files == 4:
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
    (folder / "metrics.json").open("a").write('{"iteration": 1, "lr"')

    resumed = train_net(*argv, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "Training from iteration 2 to 8" in resumed.stdout
    assert_same(load(folder / "model_final.pth"), whole)
    assert list(folder.glob(".*")) == []
    assert not (folder / "run.lock").exists()
    assert all("iteration" in json.loads(line) for line in (folder / "metrics.json").open())


def test_stopped_halfway_and_resumed_to_twice_as_far(train_net, whole, tmp_path):
    # The schedule depends on the length of the run, so the first half is configured with all of it and stopped early.
    folder = tmp_path / "run"
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={folder}"]
    assert train_net(*argv, "model.bad_iteration=8").returncode == 1  # NaN in the fifth step, of two parts each
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    assert train_net(*argv, "--resume").returncode == 0
    assert_same(load(folder / "model_final.pth"), whole)


def test_settings_of_the_command_line_replace_those_of_the_checkpoint(train_net, tmp_path):
    folder = tmp_path / "run"
    argv = ["--config-file", CONFIG, f"train.output_dir={folder}", "train.log_period=1"]
    assert train_net(*argv, "model.bad_iteration=4").returncode == 1  # NaN in the fifth step
    new = ["optimizer.lr=0.002", "optimizer.weight_decay=0.1", "optimizer.betas=[0.8,0.99]"]
    done = train_net(*argv, "--resume", *new)
    assert done.returncode == 0, done.stderr
    line = (
        "Resuming with the optimizer settings of the config instead of the checkpoint's: "
        "lr 0.01 -> 0.002, betas (0.9, 0.999) -> (0.8, 0.99), weight_decay 0.05 -> 0.1"
    )
    assert line in done.stdout
    (group,) = load(folder / "model_final.pth")["trainer"]["optimizer"]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"], list(group["betas"])) == (0.002, 0.1, [0.8, 0.99])
    rates = {entry["iteration"]: entry["lr"] for entry in map(json.loads, (folder / "metrics.json").open()) if "lr" in entry}
    assert (rates[3], rates[4], rates[6]) == (0.01, 0.002, pytest.approx(0.0002))  # the schedule divides by 10 at 6
    again = train_net(*argv, "--resume", *new)
    assert again.returncode == 0, again.stderr
    assert "Resuming with" not in again.stdout


def test_frozen_layers_and_another_optimizer_need_a_new_run(train_net, own_data, tmp_path):
    folder = tmp_path / "run"
    nano = "configs/shapes/mask_rcnn_flash_internimage_nano.py"
    short = ["train.max_iter=1", "train.eval_period=0", "dataloader.train.total_batch_size=1", "dataloader.train.num_workers=0"]
    argv = ["--config-file", nano, *data_overrides(own_data), *short, f"train.output_dir={folder}", "train.device=cpu"]
    assert train_net(*argv).returncode == 0
    for override, reason in [
        ("model.backbone.bottom_up.freeze_at=2", "that the config freezes, as with another freeze_at"),
        ("optimizer._target_=torch.optim.Adam", "the state of AdamW, but the config's optimizer is Adam"),
    ]:
        done = train_net(*argv, "--resume", override)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"train_net.py: error: --resume: {folder}/model_final.pth cannot be resumed: it")
        assert reason in done.stderr
        assert done.stderr.endswith(
            f"without --resume: train.init_checkpoint={folder}/model_final.pth train.output_dir=NEW_FOLDER\n"
        )


def test_resume_after_the_end_changes_nothing(train_net, whole, tmp_path):
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/whole", "--resume"]
    done = train_net(*argv)
    assert done.returncode == 0, done.stderr
    assert_same(load(tmp_path / "whole/model_final.pth"), whole)


def test_resume_beyond_the_end_is_refused(train_net, whole, tmp_path):
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/whole", "--resume", "train.max_iter=7"]
    refused = train_net(*argv)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "model_final.pth was saved after 8 iterations, but train.max_iter=7; raise train.max_iter" in refused.stderr
    assert_same(load(tmp_path / "whole/model_final.pth"), whole)


def test_resume_without_a_checkpoint_starts_and_says_so(train_net, whole, tmp_path):
    done = train_net("--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/new", "--resume")
    assert f"--resume: no checkpoint in {tmp_path}/new, the run starts from its beginning" in done.stdout
    assert_same(load(tmp_path / "new/model_final.pth"), whole)


def test_new_run_in_the_folder_of_another_one(train_net, whole, tmp_path):
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/whole"]
    refused = train_net(*argv)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"train.output_dir={tmp_path}/whole: holds the checkpoints of another run (model_" in refused.stderr
    metrics = (tmp_path / "whole/metrics.json").read_text().count("\n")
    (tmp_path / "whole/model_0000099.pth").write_text("of a longer run")
    assert train_net(*argv, "--overwrite").returncode == 0
    assert_same(load(tmp_path / "whole/model_final.pth"), whole)
    assert (tmp_path / "whole/metrics.json").read_text().count("\n") == metrics
    assert not (tmp_path / "whole/model_0000099.pth").exists()


def test_missing_note_or_checkpoint_is_replaced_by_the_newest_one(train_net, whole, tmp_path):
    argv = ["--config-file", CONFIG, *OPTIONS, f"train.output_dir={tmp_path}/whole", "--resume"]
    (tmp_path / "whole/last_checkpoint").unlink()
    (tmp_path / "whole/model_0000007.pth").unlink()
    done = train_net(*argv)
    assert "has no last_checkpoint; resuming from the newest periodic checkpoint, model_0000005.pth" in done.stdout
    assert_same(load(tmp_path / "whole/model_final.pth"), whole)
    (tmp_path / "whole/model_final.pth").unlink()
    assert train_net(*argv).returncode == 0
    assert_same(load(tmp_path / "whole/model_final.pth"), whole)
