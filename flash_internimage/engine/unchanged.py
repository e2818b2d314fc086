"""Contexts that leave a model as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of all modules after the context: detectron2's RetinaNet has a moving mean in one."""
    saved = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in saved:
            vars(module).clear()
            vars(module).update(attributes)


@contextlib.contextmanager
def tensors_kept(model: nn.Module) -> Iterator[None]:
    """Restore the values of all parameters and buffers after the context; meanwhile they are copied to the CPU."""
    saved = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in chain(model.parameters(), model.buffers())]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in saved:
                tensor.copy_(value)
