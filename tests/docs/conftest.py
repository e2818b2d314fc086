"""Fixtures of ``sandbox.py``."""

from tests.docs.sandbox import run_program, sandbox

__all__ = ["run_program", "sandbox"]
