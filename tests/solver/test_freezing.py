"""Freezing parts of a model by name."""

import copy

import pytest
import torch
from torch import nn

from flash_internimage.errors import UserError
from flash_internimage.solver.freezing import freeze, require_filled
from flash_internimage.solver.parameter_groups import Setting, group_parameters


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(
            {"bottom_up": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)), "lateral": nn.Conv2d(4, 4, 1)}
        )
        self.backbones_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.embedding = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = self.backbones_norm(self.backbone["lateral"](self.backbone["bottom_up"](x)))
        return self.head(x.mean((2, 3))) + self.embedding


def changed(model, steps=2):
    """Train for a few steps; return the names of the tensors that have changed."""
    before = copy.deepcopy(model.state_dict())
    settings = {name: Setting(1.0, 0.1) for name, _ in model.named_parameters()}
    optimizer = torch.optim.AdamW(group_parameters(model, settings, 0.1))
    for _ in range(steps):
        model.train()  # as after an evaluation
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def tensors(model, *prefixes):
    return {name for name in model.state_dict() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [
        pytest.param("backbone", ("backbone.",), id="a module, with its running statistics"),
        pytest.param(["backbone.bottom_up", "head"], ("backbone.bottom_up.", "head."), id="two modules"),
        pytest.param("embedding", ("embedding",), id="a parameter"),
        pytest.param(None, ("none",), id="nothing"),
    ],
)
def test_frozen_tensors_and_no_others_keep_their_values(parts, prefixes):
    model = Detector()
    frozen = freeze(model, parts)
    expected = tensors(model, *prefixes)
    assert set(frozen) == {name for name, _ in model.named_parameters()} & expected
    assert changed(model) == set(model.state_dict()) - expected


def test_frozen_module_is_deterministic_and_so_is_its_copy():
    model = Detector()
    freeze(model, "backbone")
    for each in (model.train(), copy.deepcopy(model).train()):
        assert not any(module.training for module in each.backbone.modules())
        assert each.head.training
    other = copy.deepcopy(model)
    other.backbone["lateral"].train()
    assert not model.backbone["lateral"].training


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("bottom_up", "the model has no module 'bottom_up'; did you mean backbone.bottom_up?"),
        (["head", "backbon"], "the model has no module 'backbon'; did you mean backbone"),
        ("neck", "the model has no module 'neck'; it has backbone, backbones_norm, head"),
        ("", "the model has no module ''; it has backbone"),
        (["backbone", "backbones_norm", "head", "embedding"], "leaves no parameter to train; freeze fewer modules"),
    ],
)
def test_mistake_is_one_sentence(parts, message):
    with pytest.raises(ValueError) as caught:
        freeze(Detector(), parts)
    assert message in str(caught.value)


def test_random_weights_are_not_frozen():
    require_filled("train.freeze", ["a", "b"], ["c"], "weights.pth")
    with pytest.raises(ValueError, match=r"1 frozen tensor .* random values \(b\), which weights.pth does not have"):
        require_filled("train.freeze", ["a", "b"], ["b", "c"], "weights.pth")
    with pytest.raises(ValueError, match=r"which train.init_checkpoint \(empty\) does not have; start from the .* detector$"):
        require_filled("train.lora", ["a"], ["a"], "")
    with pytest.raises(ValueError, match="start from the checkpoint of a trained detector, or freeze less$"):
        require_filled("train.freeze", ["a"], ["a"], "", "freeze less")


@pytest.mark.parametrize("parts", [True, 2, 0.5, ["head", 1]])
def test_what_is_no_name_is_one_sentence(parts):
    with pytest.raises(UserError, match="^train.freeze=.*: expected the name of a module, .* set its freeze_at$"):
        freeze(Detector(), parts)
