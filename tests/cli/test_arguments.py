"""Arguments that several commands share."""

import argparse
from pathlib import Path

import pytest

from flash_internimage import model_zoo
from flash_internimage.cli.arguments import config_path, overrides_with_weights
from flash_internimage.cli.main import command_parser
from flash_internimage.errors import UserError

T_1X = "mask_rcnn_flash_intern_image_t_fpn_1x_coco"


def test_flags_and_overrides_in_any_order():
    args = command_parser("train").parse_intermixed_args(
        ["train.seed=1", "--config-file", "a.py", "train.max_iter=2", "--resume", "train.device=cpu"]
    )
    assert (args.config_file, args.resume, args.num_gpus) == ("a.py", True, None)
    assert args.overrides == ["train.seed=1", "train.max_iter=2", "train.device=cpu"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train"], "required: --config-file"),
        (["train", "--config-file", "a.py", "--num-gpus", "0"], "--num-gpus: expected 1 or more, got 0; without a GPU the one"),
        (["train", "--config-file", "a.py", "--evalonly"], "unrecognized arguments: --evalonly"),
        (["report", "output", "--threshold", "1.5"], "--threshold: expected a score from 0 to 1, got 1.5"),
        (["report", "output", "--threshold", "half"], "--threshold: expected a number, got 'half'"),
        (["check-data", "--json", "a", "--images", "b", "--limit", "0"], "--limit: expected 1 or more, got 0"),
        (["compare", "a", "b", "--classes", "2.5"], "--classes: expected a whole number, got '2.5'"),
    ],
)
def test_mistakes_end_with_code_2(flash_internimage, argv, message):
    done = flash_internimage(*argv)
    assert done.returncode == 2
    assert f"flash-internimage {argv[0]}: error: " in done.stderr
    assert message in done.stderr


def test_a_config_is_a_file_or_a_name():
    assert config_path("some/file.py") == "some/file.py"
    assert Path(config_path(T_1X)).name == f"{T_1X}.py"
    assert Path(config_path("mask_rcnn_flash_internimage_nano")).is_file()
    with pytest.raises(UserError, match=f"no config named .*{T_1X}"):
        config_path(T_1X.replace("1x", "2x"))


def test_a_config_is_a_shared_detector(tmp_path, monkeypatch):
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "model.safetensors"):
        with pytest.raises(UserError, match="no config named"):
            config_path("shared")
        (folder / name).write_text("")
    assert config_path("shared") == "shared/config.yaml"
    assert config_path(str(folder)) == f"{folder}/config.yaml"


@pytest.mark.parametrize(
    ("config", "weights", "overrides", "expected"),
    [
        pytest.param("hf://me/a", "b.pth", [], ["train.init_checkpoint=b.pth"], id="given for a shared detector"),
        pytest.param("hf://me/a@v1", None, [], ["train.init_checkpoint=hf://me/a@v1/model.safetensors"], id="shared"),
        pytest.param("a.py", None, ["train.seed=1"], ["train.seed=1"], id="the config says"),
        pytest.param("a.py", "b.pth", ["train.seed=1"], ["train.seed=1", "train.init_checkpoint=b.pth"], id="given"),
        pytest.param(T_1X, "b.pth", [], ["train.init_checkpoint=b.pth"], id="given for a published detector"),
        pytest.param(T_1X, None, [], [f"train.init_checkpoint={model_zoo.get_checkpoint(T_1X)}"], id="published"),
        pytest.param(
            T_1X,
            None,
            ["train.init_checkpoint=b.pth"],
            [f"train.init_checkpoint={model_zoo.get_checkpoint(T_1X)}", "train.init_checkpoint=b.pth"],
            id="an override comes last and wins",
        ),
    ],
)
def test_weights(config, weights, overrides, expected):
    args = argparse.Namespace(config_file=config, weights=weights, overrides=overrides)
    assert overrides_with_weights(args) == expected
