"""Precision of weights in inference."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


def cast_weights(model: ModelT, dtype: torch.dtype) -> ModelT:
    """Cast, in place, the weights that autocast would cast in each call: those of linear layers and convolutions.

    For inference under ``torch.autocast`` with the same dtype, whose results do not change: it casts these weights anyway.
    Norms and layer scale keep their precision. The model needs less memory and time, and can no longer be trained.

    Returns:
        The model.
    """
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    for module in model.modules():
        if isinstance(module, layers):
            # Without the modules inside, because a convolution of detectron2 contains its norm.
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return model
