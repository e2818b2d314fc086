"""Fixtures of ``sandbox.py``."""

from tests.docs.sandbox import run_python, sandbox

__all__ = ["run_python", "sandbox"]
