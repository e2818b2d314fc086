"""Proposal generators: modules that propose object boxes, before they are classified."""

from .rpn import RPN

__all__ = ["RPN"]
