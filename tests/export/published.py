"""Check that takes hours (``make export-configs``): the published configs with random weights as verified ONNX files.

Prints seconds and megabytes of each. Small images are exported and compared, since no layer depends on the image size.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from flash_internimage import model_zoo
from flash_internimage.checkpoint import Checkpointer
from flash_internimage.inference.exporting import export
from tests.export.small import spread

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", model_zoo.list())
def test_a_published_config_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture, name: str):
    cfg = LazyConfig.apply_overrides(
        model_zoo.get_config(name),
        ["dataloader.test.mapper.augmentations.0.short_sides=[320]", "dataloader.test.mapper.augmentations.0.long_side=416"],
    )
    torch.manual_seed(0)
    model = instantiate(cfg.model).eval()
    spread(model)
    Checkpointer(model, str(tmp_path)).save("model")
    del model
    start = time.monotonic()
    with capsys.disabled():
        export(cfg, tmp_path / "model.pth", tmp_path / "model.onnx", report=lambda line: print(line, flush=True))
        seconds, megabytes = time.monotonic() - start, (tmp_path / "model.onnx").stat().st_size / 1e6
        print(f"{name}: {seconds:.0f} s, {megabytes:.0f} MB", flush=True)
