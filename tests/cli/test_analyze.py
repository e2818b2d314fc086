"""Counting and timing of detectors: parts add up to the whole, and figures are those that can be worked out by hand."""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

NANO = "configs/shapes/mask_rcnn_flash_internimage_nano.py"


@pytest.fixture(scope="module")
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("analyze_model", repository / "tools/analyze_model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["analyze_model"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["analyze_model"]


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
    return Part(10, backbone=backbone, proposal_generator=Part(30), roi_heads=Part(60, box_head=Part(5)))


def test_modules_belong_to_the_parts_of_either_family(tool, pyramid_model):
    assert tool.part_of_module(pyramid_model) == {
        "backbone": "neck",
        "backbone.bottom_up": "backbone",
        "proposal_generator": "proposals",
        "roi_heads": "heads",
    }
    transformer = Part(0, encoder=Part(), query_selection=Part(), decoder=Part())
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
