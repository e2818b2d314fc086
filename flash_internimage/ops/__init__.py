"""Operators as plain functions of tensors; importing them needs only torch."""

from . import flops  # registers the operators with PyTorch's FLOP counter
from .dcnv4 import dcnv4
from .ms_deform_attn import ms_deform_attn

__all__ = ["dcnv4", "flops", "ms_deform_attn"]
