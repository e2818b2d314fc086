"""Compilation of backbone and neck for training. Most tests capture graphs and run them without generating code."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.engine.compilation import RequireCompiled, compile_for_training
from flash_internimage.solver.lora import LoRAOptions, add_adapters

pytestmark = pytest.mark.usefixtures("fresh_compiler")


class Detector(nn.Module):
    """A model with a backbone and a head, whose loss depends on random numbers."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), StochasticDepth(0.5, "row"))
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        return self.head(self.backbone(images).mean((2, 3))).square().sum()


def losses(model):
    """Losses of two steps, on images of two sizes, and the gradients after them."""
    found = []
    for step, size in enumerate([(9, 12), (14, 10)]):
        torch.manual_seed(step)
        loss = model(torch.randn(4, 3, *size))
        loss.backward()
        found.append(loss.detach())
    return [*found, *(parameter.grad for parameter in model.parameters() if parameter.requires_grad)]


def check(hook, iteration=0):
    hook.trainer = SimpleNamespace(iter=iteration, start_iter=0)
    hook.after_step()


def test_losses_names_and_number_of_graphs(caplog):
    torch.manual_seed(0)
    model = Detector()
    other = copy.deepcopy(model)
    hook = RequireCompiled(compile_for_training(other, backend="aot_eager"))
    # The same float32 operations; a compiler may order the additions of a gradient differently: 1e-5 of its size.
    torch.testing.assert_close(losses(other), losses(model), rtol=1e-5, atol=1e-6)
    assert list(other.state_dict()) == list(model.state_dict())
    with caplog.at_level("INFO", logger="flash_internimage"):
        check(hook)
    assert "Compiled backbone with dynamic image sizes; number of graphs: 1" in caplog.text
    with torch.no_grad():
        other(torch.randn(1, 3, 20, 30))
    assert hook._counter.require_some("train.compile=true") == 1  # evaluations compile nothing


def test_lora_adapters_are_compiled_with_the_backbone():
    pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Detector()
    model.backbone.append(nn.Flatten(2)).append(nn.AdaptiveAvgPool1d(6)).append(nn.Linear(6, 6)).append(nn.Unflatten(2, (2, 3)))
    add_adapters(model, LoRAOptions(rank=2, alpha=2.0, dropout=0.0))
    nn.init.ones_(next(parameter for name, parameter in model.named_parameters() if "lora_B" in name))
    other = copy.deepcopy(model)
    hook = RequireCompiled(compile_for_training(other, backend="aot_eager"))
    torch.testing.assert_close(losses(other), losses(model), rtol=1e-5, atol=1e-6)
    assert hook._counter.require_some("train.compile=true") == 1


def test_nothing_compiled_is_one_sentence(monkeypatch):
    hook = RequireCompiled(["backbone"])
    with pytest.raises(ValueError, match="train.compile=true: torch.compile has compiled nothing; unset TORCHDYNAMO_DISABLE"):
        check(hook)
    check(hook, iteration=1)  # only the first iteration is checked


def test_model_without_such_parts_is_one_sentence():
    model = nn.ModuleDict({"body": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="train.compile=true: compiles backbone and neck, but ModuleDict has only body"):
        compile_for_training(model)


@pytest.mark.slow
def test_inductor_compiles_one_graph_for_all_image_sizes():
    model = nn.ModuleDict({"backbone": FlashInternImageBase(8, (1, 1), (1, 2), out_features=("res2", "res3"))})
    hook = RequireCompiled(compile_for_training(model))
    for size in [(32, 48), (48, 32), (24, 64), (64, 64)]:
        features = model["backbone"](torch.randn(2, 3, *size))
        sum(feature.square().mean() for feature in features.values()).backward()
    assert hook._counter.require_some("train.compile=true") == 1


@pytest.mark.slow
def test_inductor_trains_with_the_losses_of_the_plain_model():
    torch.manual_seed(0)
    model = Detector()
    other = copy.deepcopy(model)
    assert compile_for_training(other) == ["backbone"]
    torch.testing.assert_close(losses(other), losses(model), rtol=1e-5, atol=1e-6)
