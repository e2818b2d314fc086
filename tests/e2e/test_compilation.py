"""Training of whole detectors with ``train.compile=true``: graphs and losses, without generated code, which takes minutes."""

import json
from functools import partial

import pytest

from flash_internimage.engine import run
from flash_internimage.engine.compilation import compile_for_training
from tests.e2e.conftest import data_overrides

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_compiler")]

SHORT = [
    "train.device=cpu",
    "train.max_iter=4",
    "train.eval_period=0",
    "train.log_period=1",
    "dataloader.train.total_batch_size=2",
    "lr_multiplier.warmup_iters=1",
]


def losses(folder):
    return [entry["total_loss"] for entry in map(json.loads, (folder / "metrics.json").open()) if "total_loss" in entry]


@pytest.mark.parametrize("detector", ["mask_rcnn", "cascade", "retinanet", "dino"])
def test_detector_trains_with_the_losses_of_the_plain_model(train_net, own_data, tmp_path, monkeypatch, detector):
    monkeypatch.setattr(run, "compile_for_training", partial(compile_for_training, backend="aot_eager"))
    argv = ["--config-file", f"configs/shapes/{detector}_flash_internimage_nano.py", *data_overrides(own_data), *SHORT]
    for setting in ("false", "true"):
        done = train_net(*argv, f"train.compile={setting}", f"train.output_dir={tmp_path}/{setting}")
        assert done.returncode == 0, done.stderr
    modules, graphs = ("backbone and neck", 2) if detector == "dino" else ("backbone", 1)
    assert f"Compiled {modules} with dynamic image sizes; number of graphs: {graphs}\n" in done.stdout
    plain, compiled = losses(tmp_path / "false"), losses(tmp_path / "true")
    assert len(plain) == 4
    # The same float32 operations, but sums of gradients in another order. Each step multiplies the difference.
    assert compiled[0] == pytest.approx(plain[0], rel=1e-6)
    assert compiled == pytest.approx(plain, rel=1e-3)
