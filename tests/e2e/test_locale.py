"""The commands in the C locale, where Python's default encoding for files and streams is ASCII."""

import json

import pytest

from flash_internimage.cli.main import COMMANDS
from flash_internimage.data.shapes import annotation_file
from flash_internimage.engine.config import load_config
from tests.e2e.conftest import data_overrides, run_python

NANO = "configs/shapes/mask_rcnn_flash_internimage_nano.py"
NAMES = ["é", "形", "US$ fork"]

# One process for all commands, since importing torch takes seconds. Each command's exit code follows its output.
CALLS = """
import json, sys
from flash_internimage.cli.main import main

assert sys.stdout.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968"), sys.stdout.encoding
for argv in json.loads(sys.argv[1]):
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code
    print("exit code", code, *argv[:1])
"""

# The same for configs, whose comments and values need not be ASCII.
CONFIGS = """
import sys
from flash_internimage.engine.config import load_config, save_config

save_config(load_config(sys.argv[1], eval_only=True), sys.argv[2])
print(ascii(load_config(sys.argv[2], eval_only=True).train.name))
"""


def in_c_locale(script, *argv):
    return run_python("-c", script, *argv, LC_ALL="C", PYTHONUTF8="0", PYTHONPATH=".", PYTHONIOENCODING="")


@pytest.fixture
def named_data(own_data, tmp_path):
    """The shapes with names that are not ASCII; in the training data written as UTF-8, in the other as JSON escapes."""
    root = tmp_path / "data"
    root.mkdir()
    for split in ("train", "val"):
        (root / split).symlink_to(own_data / split)
        content = json.loads(annotation_file(own_data, split).read_text(encoding="utf-8"))
        for category, name in zip(content["categories"], NAMES, strict=False):
            category["name"] = name
        target = annotation_file(root, split)
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(content, ensure_ascii=split == "val"), encoding="utf-8")
    return root


@pytest.mark.slow
def test_every_command(named_data, tmp_path):
    run, found = f"{tmp_path}/run", f"{tmp_path}/found"
    config = ["--config-file", NANO]
    data = data_overrides(named_data)
    short = ["train.max_iter=2", "train.log_period=1", "dataloader.train.total_batch_size=1", "train.validation_pictures=1"]
    here = ["train.device=cpu", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0", f"train.output_dir={run}"]
    image = str(next(iter((named_data / "val").iterdir())))
    own = ["--json", str(annotation_file(named_data, "train")), "--images", str(named_data / "train")]
    last = f"{run}/model_final.pth"
    commands = [
        ["check-data", *own, "--output", f"{tmp_path}/check"],
        ["train", *config, *data, *short, *here],
        ["eval", *config, "--weights", last, *data, *here],
        ["predict", *config, "--weights", last, "--source", image, "--output", found, "--threshold", "0", "train.device=cpu"],
        ["report", run],
        ["compare", run, run],
        ["draw", *own[:1], data[2].split("=")[1], "--images", str(named_data / "val"), "--predictions",
         f"{run}/inference/coco_instances_results.json", "--output", f"{tmp_path}/drawn", "--threshold", "0"],
        ["show-batch", *config, *data, *short, *here, "--output", f"{tmp_path}/batch"],
        ["convert", last, f"{tmp_path}/published.pth", "--to", "published"],
        ["env"],
    ]  # fmt: skip
    helps = [["--help"], *([command, "--help"] for command in COMMANDS)]
    done = in_c_locale(CALLS, json.dumps(commands + helps))
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert codes == [f"exit code 0 {command[0]}" for command in commands + helps], done.stdout + done.stderr
    assert "UnicodeEncodeError" not in done.stderr  # which the log shows without an end of the program
    assert "\\xe9" in done.stdout
    assert "é" in (tmp_path / "run/log.txt").read_text(encoding="utf-8")
    assert "é" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    detections = json.loads((tmp_path / "found/detections.json").read_text(encoding="utf-8"))
    assert [category["name"] for category in detections["categories"]][:3] == NAMES


def test_train_net(tmp_path):
    done = run_python("train_net.py", "--help", LC_ALL="C", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr


def test_configs(tmp_path):
    config, saved = tmp_path / "config.py", tmp_path / "config.yaml"
    config.write_text('# réseau\nmodel = dict()\ndataloader = dict()\ntrain = dict(name="é")\n', encoding="utf-8")
    done = in_c_locale(CONFIGS, config, saved)
    assert (done.stdout, done.stderr) == ("'\\xe9'\n", "")
    assert load_config(str(saved), eval_only=True).train.name == "é"
