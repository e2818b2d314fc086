"""A web page on which a detector is tried on images and videos, ``flash-internimage app``."""

from .page import build_page

__all__ = ["build_page"]
