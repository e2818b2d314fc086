"""Runs that end early because the metric of the best checkpoint no longer improves."""

import json

import pytest

from tests.e2e.conftest import run_python
from tests.e2e.test_resume import assert_same, load

# Evaluations after iterations 1, 3, 5, ..., of which the second one is the best.
ARGV = [
    "--config-file",
    "tests/engine/tiny_config.py",
    "train.max_iter=20",
    "train.eval_period=2",
    "train.log_period=3",
    "train.checkpointer.period=2",
    "dataloader.evaluator.given=[10,30,20,30,25,50,60,70,80,90,90]",
]
PATIENCE = ["train.early_stop.patience=3"]
REASON = (
    "Stopped early after 10 of 20 iterations: bbox/AP has not improved in the last 3 evaluations "
    "(train.early_stop.patience=3); the best is 30.0000 after 4 iterations, in model_best.pth"
)


def evaluations(folder):
    """AP by iteration in ``metrics.json``."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {line["iteration"]: line["bbox/AP"] for line in lines if "bbox/AP" in line}


@pytest.fixture
def stopped(train_net, tmp_path):
    done = train_net(*ARGV, *PATIENCE, f"train.output_dir={tmp_path}/whole")
    assert done.returncode == 0, done.stderr
    return tmp_path / "whole", done.stdout


def test_run_ends_after_evaluations_without_improvement_and_says_so_last(stopped):
    folder, text = stopped
    assert text.splitlines()[-1].endswith(REASON)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert load(folder / "model_final.pth")["iteration"] == 9
    assert load(folder / "model_best.pth")["iteration"] == 3
    assert evaluations(folder)[9] == 25  # written, although log_period does not divide 10
    assert (folder / "last_evaluation").read_text() == "9\n"


def test_weights_are_those_of_a_run_without_early_stopping(train_net, stopped, tmp_path):
    assert train_net(*ARGV, "train.checkpointer.max_to_keep=20", f"train.output_dir={tmp_path}/other").returncode == 0
    assert_same(load(stopped[0] / "model_final.pth"), load(tmp_path / "other/model_0000009.pth"))
    assert load(tmp_path / "other/model_final.pth")["iteration"] == 19


def test_resumed_run_keeps_the_count(train_net, stopped, tmp_path):
    argv = [*ARGV, *PATIENCE, f"train.output_dir={tmp_path}/resumed"]
    assert train_net(*argv, "model.bad_iteration=7").returncode == 1  # NaN after the third evaluation
    done = train_net(*argv, "--resume")
    assert (done.returncode, done.stdout.splitlines()[-1].endswith(REASON)) == (0, True)
    assert_same(load(tmp_path / "resumed/model_final.pth"), load(stopped[0] / "model_final.pth"))


def test_stopped_run_stays_stopped_and_goes_on_with_more_patience(train_net, stopped):
    folder, _ = stopped
    before = (folder / "model_final.pth").read_bytes()
    again = train_net(*ARGV, *PATIENCE, f"train.output_dir={folder}", "--resume")
    assert (again.returncode, again.stdout.splitlines()[-1].endswith(REASON)) == (0, True)
    assert (folder / "model_final.pth").read_bytes() == before
    longer = train_net(*ARGV, "train.early_stop.patience=4", f"train.output_dir={folder}", "--resume")
    assert longer.returncode == 0, longer.stderr
    assert load(folder / "model_final.pth")["iteration"] == 19
    assert load(folder / "model_best.pth")["iteration"] == 19


def test_final_checkpoint_is_made_up_for_if_the_run_was_killed_before_it(train_net, stopped):
    folder, _ = stopped
    whole = load(folder / "model_final.pth")
    for name in ("model_final.pth", "last_checkpoint", "last_evaluation"):
        (folder / name).unlink()
    done = train_net(*ARGV, *PATIENCE, f"train.output_dir={folder}", "--resume")
    assert (done.returncode, done.stdout.splitlines()[-1].endswith(REASON)) == (0, True)
    assert_same(load(folder / "model_final.pth"), whole)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.early_stop.patience=0"], "train.early_stop.patience=0: expected 1 or more evaluations"),
        (["train.early_stop.patience=long"], "train.early_stop.patience=long: expected 1 or more evaluations"),
        ([*PATIENCE, "train.eval_period=0"], "needs evaluations during the run, but train.eval_period is 0"),
        ([*PATIENCE, "train.best_checkpoint.metric=null"], "set train.best_checkpoint.metric"),
        ([*PATIENCE, "train.best_checkpoint.metric=segm/AP"], "the evaluation has no metric segm/AP (train.best_checkpoint."),
    ],
    ids=["zero", "text", "no evaluations", "no metric", "unknown metric"],
)
def test_mistake_is_one_sentence(train_net, tmp_path, overrides, message):
    done = train_net(*ARGV, *overrides, f"train.output_dir={tmp_path}/run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    done = run_python("train_net.py", *ARGV, *PATIENCE, f"train.output_dir={tmp_path}", "--num-gpus", 2)
    assert done.returncode == 0, done.stderr
    assert REASON in done.stdout.splitlines()[-1]
    assert load(tmp_path / "model_final.pth")["iteration"] == 9
