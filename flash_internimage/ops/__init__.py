"""Operators as plain functions of tensors; importing them needs only torch."""

from .dcnv4 import dcnv4
from .ms_deform_attn import ms_deform_attn

__all__ = ["dcnv4", "ms_deform_attn"]
