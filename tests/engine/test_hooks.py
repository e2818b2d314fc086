"""The best checkpoint: which is kept, and what a resumed run knows of it."""

import json
import logging

import pytest
import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import TrainerBase

from flash_internimage.checkpoint import Checkpointer
from flash_internimage.engine.hooks import BestCheckpoint, periodic_checkpoints


class Counter(TrainerBase):
    """Each step writes its number into the model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def run_step(self):
        self.model.weight.data.fill_(self.iter)


def run(folder, figures, start=0, stop=None, mode="max", resumed=False, metric="bbox/AP", period=2):
    """Train with an evaluation after every second step that gives one figure after the other."""
    model = torch.nn.Linear(1, 1, bias=False)
    checkpointer = Checkpointer(model, str(folder))
    figures = iter(figures)
    trainer = Counter(model)
    trainer.register_hooks(
        [
            periodic_checkpoints(checkpointer, period=2, max_to_keep=1, resumed=resumed),
            hooks.EvalHook(period, lambda: {"bbox": {"AP": next(figures)}}),
            BestCheckpoint(checkpointer, period, metric, mode, resumed),
        ]
    )
    trainer.train(start, stop or 8)


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
        pytest.param([30, 20, 30, 10], "max", (30, 1, 1), id="the first of equals"),
        pytest.param([3, 1, 2, 4], "min", (1, 3, 3), id="smallest"),
        pytest.param([float("nan"), 5, float("nan"), 1], "max", (5, 3, 3), id="not a number"),
    ],
)
def test_best_is_kept(tmp_path, figures, mode, expected):
    run(tmp_path, figures, mode=mode)
    assert best(tmp_path) == expected


def test_the_last_checkpoint_stays_the_one_to_resume_from(tmp_path):
    run(tmp_path, [10, 20, 30, 40])
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7


def test_a_resumed_run_does_not_replace_a_better_one(tmp_path):
    run(tmp_path, [10, 30], stop=4)
    run(tmp_path, [20, 25], start=4, resumed=True)
    assert best(tmp_path) == (30, 3, 3)


def test_a_new_run_in_the_same_folder_starts_over(tmp_path):
    run(tmp_path, [10, 30], stop=4)
    run(tmp_path, [20, 25], start=0, stop=4)
    assert best(tmp_path) == (25, 3, 3)


def test_another_metric_starts_over(tmp_path):
    run(tmp_path, [10, 30], stop=4)
    note = tmp_path / "model_best.json"
    note.write_text(json.dumps({"metric": "segm/AP", "value": 99.0, "iteration": 3}))
    run(tmp_path, [20, 25], start=4, resumed=True)
    assert best(tmp_path) == (25, 7, 7)


def test_without_period_the_last_evaluation_counts(tmp_path):
    run(tmp_path, [5], period=0)
    assert best(tmp_path) == (5, 7, 7)


def test_a_metric_that_is_not_measured_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="flash_internimage"):
        run(tmp_path, [1, 2, 3, 4], metric="segm/AP")
    assert "gives no segm/AP, but bbox/AP" in caplog.text
    assert not (tmp_path / "model_best.pth").exists()


def test_mode_is_checked(tmp_path):
    with pytest.raises(ValueError, match="train.best_checkpoint.mode=largest: expected max or min"):
        BestCheckpoint(Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)), 1, "bbox/AP", "largest")


@pytest.mark.parametrize(
    ("resumed", "kept"), [(False, ["model_0000003.pth", "model_0000007.pth"]), (True, ["model_0000007.pth"])]
)
def test_old_checkpoints_of_a_resumed_run_are_counted(tmp_path, resumed, kept):
    run(tmp_path, [1, 2], stop=4)
    run(tmp_path, [3, 4], start=4, resumed=resumed)
    assert sorted(path.name for path in tmp_path.glob("model_0*.pth")) == kept


@pytest.mark.parametrize(("period", "max_to_keep"), [(0, 1), (1, 0)])
def test_numbers_are_checked(tmp_path, period, max_to_keep):
    with pytest.raises(ValueError, match="train.checkpointer: expected a period and a max_to_keep of 1 or more"):
        periodic_checkpoints(Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)), period, max_to_keep, resumed=False)
