"""Fingerprint of a model's weights, which is the same for every file that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of a model's tensors, in any order and on any device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
