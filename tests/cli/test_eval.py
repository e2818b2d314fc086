"""Evaluation from the command line."""

import pytest

TINY = "tests/engine/tiny_config.py"


@pytest.fixture
def trained(flash_internimage, tmp_path):
    folder = tmp_path / "run"
    assert flash_internimage("train", "--config-file", TINY, f"train.output_dir={folder}").returncode == 0
    return folder


def test_evaluates_the_weights_that_are_named_or_the_last(flash_internimage, trained, tmp_path):
    weights = trained / "model_final.pth"
    named = flash_internimage(
        "eval", "--config-file", TINY, "--weights", weights, f"train.output_dir={tmp_path}/e", "train.init_checkpoint=no.pth"
    )
    assert named.returncode == 0, named.stderr
    last = flash_internimage("eval", "--config-file", trained / "config.yaml", "--trust-config", "--resume")
    assert last.returncode == 0, last.stderr
    figures = [[line for line in done.stdout.splitlines() if "copypaste: " in line] for done in (named, last)]
    assert [line.split("copypaste")[1] for line in figures[0]] == [line.split("copypaste")[1] for line in figures[1]]
    assert figures[0]


def test_weights_that_are_not_there(flash_internimage, tmp_path):
    done = flash_internimage("eval", "--config-file", TINY, "--weights", "no.pth", f"train.output_dir={tmp_path}/e")
    assert done.returncode == 1
    assert done.stderr == "flash-internimage eval: error: checkpoint no.pth: no such file\n"
