"""Precisions by name, and the dtype of autocast for each."""

from __future__ import annotations

import torch

from flash_internimage.errors import UserError

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtype of each precision."""


def autocast_dtype(precision: str, device: torch.device, setting: str = "precision") -> torch.dtype | None:
    """Return the dtype of autocast for a precision; None for fp32, which needs none.

    Args:
        precision: a key of :data:`DTYPES`.
        setting: name of the setting, for messages.

    Raises:
        UserError: the precision is unknown, or is fp16 on a CPU.
    """
    if precision not in DTYPES:
        raise UserError(f"{setting}={precision}: expected {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise UserError(f"{setting}=fp16: half precision needs a GPU; on a CPU use {setting}=bf16")
    return None if precision == "fp32" else DTYPES[precision]
