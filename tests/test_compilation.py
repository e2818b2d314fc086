"""Compilation of the parts of a detector, and the number of compiled graphs."""

import pytest
import torch
from torch import nn

from flash_internimage import compilation
from flash_internimage.compilation import GraphCounter, compile_parts


class Net(nn.Module):
    """A detector with a backbone that can be compiled."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return self.backbone(x)


@pytest.mark.usefixtures("fresh_compiler")
def test_the_backbone_is_compiled_and_counted(monkeypatch):
    compile_ = torch.compile
    # The compiler of C++ takes a minute.
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="eager"))
    model, counter = Net(), GraphCounter()
    assert compile_parts(model) == ["backbone"]
    for _ in range(2):
        model(torch.ones(2, 3))
        assert counter.require_some("compile") == 1


def test_a_model_without_parts():
    assert compile_parts(nn.Linear(3, 3)) == []


def test_nothing_compiled_is_an_error(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: function)  # as with TORCH_COMPILE_DISABLE=1
    model, counter = Net(), GraphCounter()
    compile_parts(model)
    model(torch.ones(2, 3))
    with pytest.raises(ValueError, match="^compile: torch.compile has compiled nothing; unset .*, or run without compile$"):
        counter.require_some("compile")


def test_graphs_of_others_do_not_count(monkeypatch):
    monkeypatch.setattr(compilation, "_compiled_graphs", lambda: 7)
    with pytest.raises(ValueError, match="compiled nothing"):
        GraphCounter().require_some("compile")
