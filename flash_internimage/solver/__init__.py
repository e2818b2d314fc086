"""Parameter groups of the optimizer, learning-rate schedule, and exponential moving average of the weights."""

from .ema import build_ema, ema_momentum
from .parameter_groups import get_layer_decay_groups, get_named_groups

__all__ = ["build_ema", "ema_momentum", "get_layer_decay_groups", "get_named_groups"]
