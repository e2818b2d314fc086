"""Counting and timing of detectors: parts add up to the whole, and figures are those that can be worked out by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from flash_internimage.cli import analyze

NANO = "configs/shapes/mask_rcnn_flash_internimage_nano.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return analyze


class Part(nn.Module):
    """Takes a known time on a clock of its own, beside that of the modules inside it."""

    clock = 0.0

    def __init__(self, seconds: float = 0.0, **inside: nn.Module) -> None:
        super().__init__()
        self.seconds = seconds
        for name, module in inside.items():
            self.add_module(name, module)

    def forward(self) -> None:
        Part.clock += self.seconds
        for module in self.children():
            module()


@pytest.fixture
def pyramid_model() -> Part:
    backbone = Part(20, bottom_up=Part(40))
    box_predictor = Part(5, cls_score=Part())
    box_predictor.cls_score.weight = nn.Parameter(torch.zeros(1))  # the signature of Mask R-CNN
    return Part(10, backbone=backbone, proposal_generator=Part(30), roi_heads=Part(60, box_predictor=box_predictor))


def test_modules_belong_to_the_parts_of_the_detector_family(tool, pyramid_model):
    assert tool.part_of_module(pyramid_model) == {
        "backbone": "neck",
        "backbone.bottom_up": "backbone",
        "proposal_generator": "proposals",
        "roi_heads": "heads",
    }
    transformer = Part(0, encoder=Part(), query_selection=Part(), decoder=Part())
    transformer.level_embeds = nn.Parameter(torch.zeros(1))
    assert tool.part_of_module(Part(0, backbone=Part(), neck=Part(), transformer=transformer)) == {
        "backbone": "backbone",
        "neck": "neck",
        "transformer.encoder": "proposals",
        "transformer.query_selection": "proposals",
        "transformer.decoder": "heads",
    }


def test_what_is_inside_another_part_counts_once(tool, pyramid_model):
    costs = {"": 100, "backbone": 60, "backbone.bottom_up": 40, "proposal_generator": 5, "roi_heads": 25}
    expected = {"": 100, "backbone": 40, "neck": 20, "proposals": 5, "heads": 25, "rest": 10}
    assert tool.sum_by_part(pyramid_model, costs) == expected


def test_time_is_told_by_part(tool, pyramid_model, monkeypatch):
    monkeypatch.setattr(tool, "now", lambda device: Part.clock)
    with tool.timed_modules(pyramid_model, torch.device("cpu")) as seconds:
        pyramid_model()
        pyramid_model()
    pyramid_model()  # after the measurement
    parts = {"": 330, "backbone": 80, "neck": 40, "proposals": 60, "heads": 130, "rest": 20}
    assert tool.sum_by_part(pyramid_model, seconds) == parts


def test_with_one_thread_other_programs_do_not_count(tool):
    threads = torch.get_num_threads()
    try:
        for count, waiting_counts in ((1, False), (2, True)):
            torch.set_num_threads(count)
            start = tool.now(torch.device("cpu"))
            time.sleep(0.2)
            assert (tool.now(torch.device("cpu")) - start >= 0.2) == waiting_counts
    finally:
        torch.set_num_threads(threads)


MEMORY_PROGRAM = """
import json, sys
import flash_internimage.cli.analyze as tool
import torch
device = torch.device("cpu")
tool.forget_peak(device)
before = tool.peak_memory(device)
torch.ones(50_000_000)  # 200 MB
torch.ones(25_000_000)
peak = tool.peak_memory(device)
small = [torch.ones(20_000) for _ in range(2_500)]  # 200 MB, too small each for the system to get them back by themselves
last = small.pop()
del small
tool.forget_peak(device)
print(json.dumps([before, peak, tool.peak_memory(device)]))
"""


def test_peak_memory_is_what_was_held_at_once(repository: Path):
    # In a process of its own: what earlier tests left for reuse would hide what these tensors take.
    command = [sys.executable, "-c", MEMORY_PROGRAM]
    output = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    before, peak, forgotten = json.loads(output.splitlines()[-1])
    if peak is None:
        pytest.skip("the system does not tell")
    assert 190e6 < peak - before < 260e6
    assert forgotten - before < 50e6


@pytest.fixture(scope="module")
def nano(tool: ModuleType, repository: Path) -> nn.Module:
    return tool.build(str(repository / NANO))


def test_multiply_adds_of_a_detector(tool, nano):
    flops = tool.count_flops(nano, 64, 96)
    assert flops[""] == sum(flops[part] for part in tool.PARTS)
    # The pyramid: 1 x 1 and 3 x 3 convolutions to 64 channels on maps of 16 x 24, 8 x 12, 4 x 6, 2 x 3 cells.
    cells = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    lateral = sum(n * width * 64 for n, width in zip(cells, [32, 64, 128, 256], strict=True))
    norms = 2 * sum(n * 64 for n in cells) * 5  # fvcore counts five operations an element,
    upsampling = sum(n * 64 for n in cells[:-1])  # and one here
    output = sum(n * 64 * 64 * 9 for n in cells)
    assert flops["neck"] == lateral + norms + upsampling + output
    # Proposals: a 3 x 3 convolution, and three scores and twelve offsets from it, on these maps and one of 1 x 2.
    assert flops["proposals"] == sum([*cells, 2]) * 64 * (64 * 9 + 15)


def test_a_row_of_costs(tool, repository, capsys):
    tool.main([str(repository / NANO), "--size", "64", "96"])
    header, alignment, row = capsys.readouterr().out.splitlines()
    assert header.startswith("| config | params (M) | GFLOPs | backbone (GFLOPs) |")
    assert alignment.startswith("| --- | ---: |")
    assert re.fullmatch(r"\| mask_rcnn_flash_internimage_nano \| 2\.8 \| [\d.]+( \| [\d.]+){5} \|", row)


def test_rows_of_times(tool, repository, capsys):
    options = ["--time", "--batch", "1", "2", "--runs", "1", "--device", "cpu"]
    tool.main([str(repository / NANO), "--size", "64", "96", *options])
    _, _, *rows, empty, environment = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[3:5] for row in rows] == [["1", "fp32"], ["2", "fp32"]]
    assert empty == ""
    assert environment.startswith(f"PyTorch {torch.__version__}; CPU")


def test_compiled_parts_compute_the_same(tool, nano, monkeypatch):
    image = [{"image": torch.rand(3, 64, 96) * 255}]
    with torch.inference_mode():
        before = nano(image)[0]["instances"].scores
    compiled = []

    def compile_quickly(function):
        compiled.append(function.__self__)
        return compile_(function, backend="aot_eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", compile_quickly)
    monkeypatch.setattr(nano.backbone.bottom_up, "forward", nano.backbone.bottom_up.forward)  # to be undone
    tool.compile_parts(nano)
    assert compiled == [nano.backbone.bottom_up]
    with torch.inference_mode():
        torch.testing.assert_close(nano(image)[0]["instances"].scores, before)


def test_a_row_of_a_detector_of_detectron2(tool, repository, capsys):
    tool.main([str(repository / "configs/shapes/retinanet_flash_internimage_nano.py"), "--size", "256", "256"])
    header, _, row = capsys.readouterr().out.splitlines()
    assert row.startswith("| retinanet_flash_internimage_nano | 2.0 | ")
    cells = dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))
    assert (cells["proposals (GFLOPs)"], cells["heads (GFLOPs)"]) == ("0.0", "0.3")
    model = tool.build(str(repository / "configs/shapes/retinanet_flash_internimage_nano.py"))
    counted = tool.count_flops(model, 64, 96)
    # The head: two towers of two 3 x 3 convolutions of 64 channels, then 9 anchors of 4 classes and 4 deltas each, on
    # feature maps of 8 x 12, 4 x 6, 2 x 3, 1 x 2 and 1 x 1 pixels.
    assert counted["heads"] == (96 + 24 + 6 + 2 + 1) * 64 * 9 * (4 * 64 + 9 * (4 + 4))
    assert counted[""] == sum(counted[part] for part in tool.PARTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "2"], "are for --time"),
        (["--size", "0", "64"], "invalid positive value: '0'"),
        (["--time", "--precision", "int8"], "invalid choice: 'int8'"),
    ],
    ids=["times without --time", "no pixels", "unknown precision"],
)
def test_arguments_that_make_no_sense(tool, capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool.main([NANO, *arguments])
    assert message in capsys.readouterr().err


def test_a_missing_config_is_one_line(tool, repository, capsys):
    with pytest.raises(SystemExit, match="1"):
        tool.main([str(repository / NANO).replace("nano", "nan")])
    error = capsys.readouterr().err
    assert "no such file; did you mean" in error
    assert "Traceback" not in error
