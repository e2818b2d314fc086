"""Validation losses of a run: in its metrics, without effect on its training, the same from several processes."""

import json

import pytest

from tests.e2e.conftest import data_overrides, run_python
from tests.e2e.test_resume import assert_same, load

TINY = ["--config-file", "tests/engine/tiny_config.py", "train.ema.enabled=true"]


def validation(folder):
    """The validation losses in ``metrics.json``, by iteration."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {
        line["iteration"]: {name: value for name, value in line.items() if name.startswith("validation/")}
        for line in lines
        if "validation/total_loss" in line
    }


def test_losses_are_written_and_the_training_is_the_same(train_net, tmp_path):
    # The samples of the tiny loader are those of its training, with targets.
    assert train_net(*TINY, f"train.output_dir={tmp_path}/plain").returncode == 0
    done = train_net(*TINY, "train.val_loss=true", f"train.output_dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert_same(load(tmp_path / "run/model_final.pth"), load(tmp_path / "plain/model_final.pth"))
    assert list(validation(tmp_path / "run")) == [3, 8]
    assert set(validation(tmp_path / "run")[3]) == {f"validation/{name}" for name in ("total_loss", "loss_box", "loss_cls")}
    assert "Validation losses: total_loss " in done.stdout
    assert validation(tmp_path / "plain") == {}


def test_best_checkpoint_by_validation_loss(train_net, tmp_path):
    best = ["train.best_checkpoint.metric=validation/total_loss", "train.best_checkpoint.mode=min"]
    assert train_net(*TINY, "train.val_loss=true", *best, f"train.output_dir={tmp_path}").returncode == 0
    note = json.loads((tmp_path / "model_best.json").read_text())
    by_iteration = {min(i, 7): losses["validation/total_loss"] for i, losses in validation(tmp_path).items()}
    assert note["value"] == min(by_iteration.values())
    assert by_iteration[note["iteration"]] == note["value"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn", "dino"])
def test_two_processes_with_unequal_numbers_of_images(own_data, tmp_path, name):
    argv = ["--config-file", f"{name}_flash_internimage_nano", *data_overrides(own_data), "train.val_loss=true"]
    argv += ["train.max_iter=1", "optimizer.lr=0", "dataloader.train.total_batch_size=2", "train.device=cpu"]
    for number in (1, 2):
        done = run_python(
            "-m", "flash_internimage", "train", *argv, f"train.output_dir={tmp_path}/{number}", "--num-gpus", number
        )
        assert done.returncode == 0, done.stderr
    (one,), (two,) = (validation(tmp_path / str(number)).values() for number in (1, 2))
    # The same images one by one: only the order of the additions over images differs.
    assert two == pytest.approx(one, rel=1e-6)
