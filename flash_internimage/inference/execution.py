"""How a model is run: in which precision, and compiled or not."""

from __future__ import annotations

import logging

import torch
from torch import nn

from flash_internimage.analysis.speed import PRECISIONS, compile_parts
from flash_internimage.engine.compilation import compiled_graphs
from flash_internimage.errors import UserError

logger = logging.getLogger(__name__)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of autocast for a precision, "fp32", "bf16" or "fp16"; None for fp32.

    Raises:
        UserError: the precision is unknown, or is fp16 on a CPU.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision should be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 needs a GPU, got the device cpu; use bf16 or fp32")
    return PRECISIONS[precision]


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices in AMX tiles, several times faster than float32."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch 2.6 and newer have it
    return bool(supported is not None and supported())


class Compiled:
    """The compiled parts of a model, in place, and the number of their graphs.

    ``torch.compile`` runs a part as before if it cannot compile it, for instance because an environment variable disables it.
    That is an error here.

    Args:
        model: a detector.

    Raises:
        UserError: the model has no part that can be compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before = compiled_graphs()
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
        found = compiled_graphs() - self._before
        if not found:
            raise UserError(
                "compile: torch.compile should have compiled a graph, but compiled none; unset TORCH_COMPILE_DISABLE and "
                "TORCHDYNAMO_DISABLE, or run without compile"
            )
        if found > self.graphs:
            logger.info("Compiled %d graphs", found)
        self.graphs = found
