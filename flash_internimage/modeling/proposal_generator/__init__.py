"""Proposal generators: modules that propose class-agnostic object boxes."""

from .rpn import RPN

__all__ = ["RPN"]
