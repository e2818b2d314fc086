"""The MLP of feed-forward networks, box heads and query positions."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(in_channels: int, hidden_channels: int, out_channels: int, num_layers: int) -> nn.Sequential:
    """``num_layers`` linear layers on the last dimension with ReLU between them; Xavier weights and zero biases."""
    widths = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
    layers: list[nn.Module] = []
    for channels, next_channels in pairwise(widths):
        linear = nn.Linear(channels, next_channels)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
