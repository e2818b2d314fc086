"""Periodic and best checkpoints, also across a resume."""

import json
import logging

import pytest
import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import TrainerBase

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.engine.hooks import BestCheckpoint, EvaluationRecord, PeriodicCheckpoints


class Counter(TrainerBase):
    """A trainer whose steps write the iteration into the model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def run_step(self):
        self.model.weight.data.fill_(self.iter)


def run(folder, figures, start=0, stop=None, mode="max", resumed=False, metric="bbox/AP", period=2):
    """Train with an evaluation every ``period`` steps, which yields ``figures`` in order."""
    model = torch.nn.Linear(1, 1, bias=False)
    checkpointer = Checkpointer(model, str(folder))
    figures = iter(figures)
    trainer = Counter(model)
    trainer.register_hooks(
        [
            PeriodicCheckpoints(checkpointer, period=2, max_to_keep=1, start=start),
            *evaluation(checkpointer, period, figures, metric, mode, resumed),
        ]
    )
    trainer.train(start, stop or 8)


def evaluation(checkpointer, period, figures, metric="bbox/AP", mode="max", resumed=False):
    evaluate = hooks.EvalHook(period, lambda: {"bbox": {"AP": next(figures)}})
    return evaluate, BestCheckpoint(checkpointer, period, metric, mode, resumed)


def best(folder):
    note = json.loads((folder / "model_best.json").read_text())
    weight = torch.load(folder / "model_best.pth", weights_only=True)
    assert weight["iteration"] == note["iteration"]
    return note["value"], note["iteration"], weight["model"]["weight"].item()


@pytest.mark.parametrize(
    ("figures", "mode", "expected"),
    [
        pytest.param([10, 30, 20, 25], "max", (30, 3, 3), id="in the middle"),
        pytest.param([10, 20, 30, 40], "max", (40, 7, 7), id="after the last step"),
        pytest.param([30, 20, 30, 10], "max", (30, 1, 1), id="first of equals"),
        pytest.param([3, 1, 2, 4], "min", (1, 3, 3), id="minimum"),
        pytest.param([float("nan"), 5, float("nan"), 1], "max", (5, 3, 3), id="NaN"),
    ],
)
def test_best_is_kept(tmp_path, figures, mode, expected):
    run(tmp_path, figures, mode=mode)
    assert best(tmp_path) == expected


def test_last_checkpoint_remains_the_one_to_resume_from(tmp_path):
    run(tmp_path, [10, 20, 30, 40])
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7


def test_resumed_run_does_not_replace_a_better_checkpoint(tmp_path):
    run(tmp_path, [10, 30], stop=4)
    run(tmp_path, [20, 25], start=4, resumed=True)
    assert best(tmp_path) == (30, 3, 3)


def test_new_run_in_the_same_folder_ignores_the_old_best(tmp_path):
    run(tmp_path, [10, 30], stop=4)
    run(tmp_path, [20, 25], start=0, stop=4)
    assert best(tmp_path) == (25, 3, 3)


def test_best_of_another_metric_is_ignored(tmp_path):
    run(tmp_path, [10, 30], stop=4)
    note = tmp_path / "model_best.json"
    note.write_text(json.dumps({"metric": "segm/AP", "value": 99.0, "iteration": 3}))
    run(tmp_path, [20, 25], start=4, resumed=True)
    assert best(tmp_path) == (25, 7, 7)


def test_period_of_zero_uses_the_last_evaluation(tmp_path):
    run(tmp_path, [5], period=0)
    assert best(tmp_path) == (5, 7, 7)


def test_unknown_metric_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="flash_internimage"):
        run(tmp_path, [1, 2, 3, 4], metric="segm/AP")
    assert "has no metric segm/AP, but bbox/AP" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


def test_unknown_mode_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="train.best_checkpoint.mode=largest: expected max or min"):
        BestCheckpoint(Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)), 1, "bbox/AP", "largest")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metric": "bbox/AP"}'])
def test_damaged_note_of_the_best_is_a_warning(tmp_path, caplog, text):
    run(tmp_path, [10, 30], stop=4)
    (tmp_path / "model_best.json").write_text(text)
    run(tmp_path, [20, 25], start=4, resumed=True)
    assert best(tmp_path) == (25, 7, 7)
    assert "model_best.json cannot be read" in caplog.text


def periodic(folder):
    return sorted(path.name for path in folder.glob("model_0*.pth"))


def test_checkpoints_from_before_a_resume_are_counted(tmp_path):
    run(tmp_path, [1, 2], stop=4)
    run(tmp_path, [3, 4], start=4, resumed=True)
    assert periodic(tmp_path) == ["model_0000007.pth"]


def test_checkpoints_of_later_iterations_than_the_resumed_one_are_not_counted(tmp_path):
    for iteration in (99, 101):
        (tmp_path / f"model_{iteration:07d}.pth").write_bytes(b"of another run")
    run(tmp_path, [1, 2], stop=4)
    run(tmp_path, [3], start=4, stop=6, resumed=True)
    assert periodic(tmp_path) == ["model_0000005.pth", "model_0000099.pth", "model_0000101.pth"]
    assert (tmp_path / (tmp_path / "last_checkpoint").read_text()).is_file()


def test_checkpoint_of_a_stopped_run_is_deleted_with_the_periodic_ones(tmp_path):
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), str(tmp_path))
    hook = PeriodicCheckpoints(checkpointer, period=2, max_to_keep=1)
    for iteration in (2, 3, 3):  # stopped after iteration 3, in which a periodic one has been saved, too
        hook.save(iteration)
    assert periodic(tmp_path) == ["model_0000003.pth"]


class Evaluated(Counter):
    """A trainer that is killed in an evaluation: the hook after the one that fails is not called."""

    def __init__(self, folder, figures, start):
        super().__init__(torch.nn.Linear(1, 1, bias=False))
        checkpointer = Checkpointer(self.model, str(folder))
        hooks = evaluation(checkpointer, 2, iter(figures), resumed=start > 0)
        self.register_hooks([*hooks, EvaluationRecord(str(folder), 2, 2, hooks)])
        self.train(start, 8)

    def after_train(self):
        """Do not evaluate after the error."""


@pytest.mark.parametrize(
    ("figures", "made_up", "expected"),
    [
        # The evaluation after iteration 3 would have been the best one.
        pytest.param([10], [40, 30], (40, 3), id="an evaluation that did not finish is made up for"),
        pytest.param([10, 40], [30], (40, 3), id="one that did finish is not repeated"),
    ],
)
def test_evaluations_that_are_due(tmp_path, figures, made_up, expected):
    with pytest.raises(StopIteration):
        Evaluated(tmp_path, figures, start=0)
    noted = len(figures) * 2 - 1
    assert (tmp_path / "last_evaluation").read_text() == f"{noted}\n"
    Evaluated(tmp_path, made_up, start=4)
    note = json.loads((tmp_path / "model_best.json").read_text())
    assert (note["value"], note["iteration"]) == expected
    assert (tmp_path / "last_evaluation").read_text() == "5\n"


@pytest.mark.parametrize(("period", "max_to_keep"), [(0, 1), (1, 0)])
def test_non_positive_numbers_are_rejected(tmp_path, period, max_to_keep):
    with pytest.raises(ValueError, match="train.checkpointer: expected a period and a max_to_keep of 1 or more"):
        PeriodicCheckpoints(Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)), period, max_to_keep)
