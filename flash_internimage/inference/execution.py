"""How a model is run: on processors with fast bfloat16, and compiled."""

from __future__ import annotations

import logging

import torch
from torch import nn

from flash_internimage.compilation import GraphCounter, compile_parts
from flash_internimage.errors import UserError

logger = logging.getLogger(__name__)


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in AMX tiles, several times faster than float32."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch 2.6 and newer have it
    return bool(supported is not None and supported())


class Compiled:
    """The compiled parts of a model, in place, and the number of their graphs.

    Args:
        model: a detector.

    Raises:
        UserError: the model has no part that can be compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        self._counter = GraphCounter()
        self.graphs = 0
        if not compile_parts(model):
            raise UserError(
                f"compile: the model should have a backbone, or parts that its family lists as compiled, but "
                f"{type(model).__name__} has none; run it without compile"
            )

    def check(self) -> None:
        """Update and log the number of graphs after a batch.

        Raises:
            UserError: nothing was compiled.
        """
        found = self._counter.require_some("compile")
        if found > self.graphs:
            logger.info("Graphs compiled so far: %d", found)
        self.graphs = found
