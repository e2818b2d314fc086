"""Precision and compilation of a predictor, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from flash_internimage import Predictor
from flash_internimage.inference.execution import Compiled, has_fast_bfloat16
from tests.test_compilation import Net

NANO = "mask_rcnn_flash_internimage_nano"


def test_amx_is_found(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_fast_bfloat16()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not has_fast_bfloat16()


def test_bfloat16_changes_the_scores_by_rounding(nano_checkpoint):
    image = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    exact = Predictor(NANO, nano_checkpoint, device="cpu")(image)["instances"]
    rounded = Predictor(NANO, nano_checkpoint, device="cpu", precision="bf16")(image)["instances"]
    assert rounded.scores.dtype == rounded.pred_boxes.tensor.dtype == torch.float32
    difference = (exact.scores[:20] - rounded.scores[:20]).abs().max()
    assert 0 < difference < 2**-5  # a few roundings to 8 bits of probabilities below 1


@pytest.fixture
def without_code_generation(monkeypatch, fresh_compiler):
    """Compile graphs without the compiler of C++, which takes a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="eager"))


@pytest.mark.usefixtures("without_code_generation")
def test_graphs_are_counted():
    model = Net()
    compiled = Compiled(model)
    model(torch.ones(2, 3))
    compiled.check()
    assert compiled.graphs == 1
    model(torch.ones(2, 3))
    compiled.check()
    assert compiled.graphs == 1


@pytest.mark.usefixtures("without_code_generation")
def test_the_predictor_compiles_its_backbone(nano_checkpoint):
    image = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    plain = Predictor(NANO, nano_checkpoint, device="cpu")
    predictor = Predictor(NANO, nano_checkpoint, device="cpu", compile=True)
    assert predictor.compiled_graphs == 0
    found = predictor(image)["instances"]
    assert predictor.compiled_graphs > 0
    torch.testing.assert_close(found.scores, plain(image)["instances"].scores)


def test_a_model_without_compilable_parts_is_refused():
    with pytest.raises(ValueError, match="should have a backbone, .* but Linear has none"):
        Compiled(nn.Linear(3, 3))
