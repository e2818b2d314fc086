"""Training a detector with frozen parts."""

import re

import pytest
import torch

from tests.e2e.conftest import data_overrides
from tests.e2e.test_resume import assert_same, load

SHORT = [
    "--config-file",
    "configs/shapes/mask_rcnn_flash_internimage_nano.py",
    "train.device=cpu",
    "train.max_iter=2",
    "train.eval_period=0",
    "train.checkpointer.period=1",
    "dataloader.train.total_batch_size=1",
    "lr_multiplier.warmup_iters=1",
]


@pytest.mark.parametrize(("part", "ema"), [("backbone", "false"), ("backbone.bottom_up", "true")])
def test_only_the_rest_is_trained_also_after_a_resume(train_net, own_data, nano_checkpoint, tmp_path, part, ema):
    argv = [*SHORT, *data_overrides(own_data), f"train.init_checkpoint={nano_checkpoint}", f"train.ema.enabled={ema}"]
    argv += [f"train.output_dir={tmp_path}", f"train.freeze={part}"]
    assert train_net(*argv).returncode == 0
    whole, before = load(tmp_path / "model_final.pth"), load(nano_checkpoint)["model"]
    changed = {name for name, tensor in whole["model"].items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not any(name.startswith(f"{part}.") for name in changed)
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    assert train_net(*argv, "--resume").returncode == 0
    assert_same(load(tmp_path / "model_final.pth"), whole)


def test_random_weights_are_not_frozen(train_net, own_data, tmp_path):
    done = train_net(*SHORT, *data_overrides(own_data), "train.freeze=backbone", f"train.output_dir={tmp_path}/run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.search(
        r"train.freeze: \d+ frozen tensors would keep random values \(backbone.*\), which train.init_checkpoint "
        r"\(empty\) does not have; start from the checkpoint of a trained detector, or freeze only modules that it fills\n",
        done.stderr,
    )
    assert not (tmp_path / "run").exists()
