"""Precision and compilation of a predictor, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from flash_internimage import Predictor
from flash_internimage.inference import execution
from flash_internimage.inference.execution import Compiled, autocast_dtype, has_fast_bfloat16

NANO = "mask_rcnn_flash_internimage_nano"
CPU = torch.device("cpu")


def test_precisions():
    assert autocast_dtype("fp32", CPU) is None
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    assert autocast_dtype("fp16", torch.device("cuda")) is torch.float16
    with pytest.raises(ValueError, match="precision fp16 needs a GPU, got the device cpu; use bf16 or fp32"):
        autocast_dtype("fp16", CPU)
    with pytest.raises(ValueError, match="precision should be one of fp32, bf16, fp16, got 'int8'"):
        autocast_dtype("int8", CPU)


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


class Net(nn.Module):
    """A detector with a backbone that can be compiled."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return self.backbone(x)


@pytest.fixture
def without_code_generation(monkeypatch):
    """Compile graphs without the compiler of C++, which takes a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="eager"))
    torch._dynamo.reset()


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


def test_nothing_compiled_is_an_error(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)  # as with TORCH_COMPILE_DISABLE=1
    model = Net()
    compiled = Compiled(model)
    model(torch.ones(2, 3))
    with pytest.raises(ValueError, match="should have compiled a graph, but compiled none; unset TORCH_COMPILE_DISABLE"):
        compiled.check()


def test_a_model_without_compilable_parts_is_refused():
    with pytest.raises(ValueError, match="should have a backbone, .* but Linear has none"):
        Compiled(nn.Linear(3, 3))


def test_graphs_of_others_do_not_count(monkeypatch):
    monkeypatch.setattr(execution, "compiled_graphs", lambda: 7)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(ValueError, match="compiled none"):
        Compiled(Net()).check()
