"""What the optimizer gets: groups of parameters, and an average of their values."""

from .ema import build_ema, ema_momentum
from .parameter_groups import get_layer_decay_groups, get_named_groups

__all__ = ["build_ema", "ema_momentum", "get_layer_decay_groups", "get_named_groups"]
