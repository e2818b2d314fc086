"""Training from the command line: the same run as with ``train_net.py``."""

import torch

import train_net
from tests.e2e.test_resume import assert_same, load
from tests.programs import call

TINY = "tests/engine/tiny_config.py"


def test_trains_as_train_net_does(flash_internimage, capsys, tmp_path):
    done = flash_internimage("train", "--config-file", TINY, f"train.output_dir={tmp_path}/a", "train.max_iter=4")
    assert done.returncode == 0, done.stderr
    argv = ["--config-file", TINY, f"train.output_dir={tmp_path}/b", "train.max_iter=4"]
    assert call(train_net.main, argv, capsys).returncode == 0
    assert_same(load(tmp_path / "a/model_final.pth"), load(tmp_path / "b/model_final.pth"))


def test_resumes(flash_internimage, tmp_path):
    argv = ["train", "--config-file", TINY, f"train.output_dir={tmp_path}", "--resume"]
    assert flash_internimage(*argv, "train.max_iter=4").returncode == 0
    resumed = flash_internimage(*argv)
    assert resumed.returncode == 0
    assert "Training from iteration 4 to 8" in resumed.stdout
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7
