"""The table of what detectors cost."""

import re

import pytest
import torch

from flash_internimage.cli import analyze

NANO = "mask_rcnn_flash_internimage_nano"


def test_a_row_of_costs(flash_internimage):
    done = flash_internimage("analyze", "--config-file", NANO, "--size", "64", "96")
    assert done.returncode == 0
    header, alignment, row = done.stdout.splitlines()
    assert header.startswith("| config | params (M) | GFLOPs | backbone (GFLOPs) |")
    assert alignment.startswith("| --- | ---: |")
    assert re.fullmatch(r"\| mask_rcnn_flash_internimage_nano \| 2\.8 \| [\d.]+( \| [\d.]+){5} \|", row)


def test_a_row_of_a_detector_of_detectron2(flash_internimage):
    path = "configs/shapes/retinanet_flash_internimage_nano.py"
    header, _, row = flash_internimage("analyze", "--config-file", path, "--size", "256", "256").stdout.splitlines()
    assert row.startswith("| retinanet_flash_internimage_nano | 2.0 | ")
    cells = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert (cells["proposals (GFLOPs)"], cells["heads (GFLOPs)"]) == ("0.0", "0.3")


def test_rows_of_times(flash_internimage, monkeypatch):
    monkeypatch.setattr(analyze, "count_flops", lambda *arguments: {"": 0.0})  # tracing takes seconds
    options = ["--time", "--batch", "1", "2", "--runs", "1", "--device", "cpu"]
    done = flash_internimage("analyze", "--config-file", NANO, "--size", "64", "96", *options)
    _, _, *rows, empty, environment = done.stdout.splitlines()
    assert [row.split(" | ")[3:5] for row in rows] == [["1", "fp32"], ["2", "fp32"]]
    assert empty == ""
    assert environment.startswith(f"PyTorch {torch.__version__}; CPU")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "2"], "--batch, --precision, --compile, --runs, --device need --time"),
        (["--size", "0", "64"], "--size: expected 1 or more, got 0"),
        (["--time", "--precision", "int8"], "invalid choice: 'int8'"),
    ],
    ids=["times without --time", "no pixels", "unknown precision"],
)
def test_arguments_that_make_no_sense(flash_internimage, arguments, message):
    done = flash_internimage("analyze", "--config-file", NANO, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_missing_config_is_one_line(flash_internimage):
    done = flash_internimage("analyze", "--config-file", "configs/shapes/mask_rcnn_flash_internimage_nan.py")
    assert done.returncode == 1
    assert "no such file; did you mean" in done.stderr
    assert done.stderr.count("\n") == 1
