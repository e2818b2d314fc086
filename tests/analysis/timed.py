"""A model that takes a known time."""

from __future__ import annotations

from torch import nn


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
