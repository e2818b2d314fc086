"""Comparing arrays with stored ones, at the tolerances that ``tests/reference/README.md`` gives.

In double precision everything agrees to what the storage keeps, indices exactly. In single precision the tolerance is ten
times the stored difference between the original's own float32 and float64. Where float32 lets neighbors in a ranking
change places, that difference is stored for the 99% quantile too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

# Losses that depend on proposals: neighbors that change places let the stored sampler choose others (README.md).
END_TO_END_LOSS = 3e-4
# Of a gradient's norm, relative; measured on Mask R-CNN and not stored for every model (README.md).
GRADIENT_NOISE = 1e-3
# Pixels of a mask whose probability is a rounding error away from the threshold.
MASK_AREA = 5
# Storage is float32: half a unit in the last place is 6e-8 of a value; the rest is room for another order of summation.
FLOAT64_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Comparison:
    """How far an array is from the stored one.

    Attributes:
        name: of the array.
        absolute: the difference that is judged: the largest one, or its 99% quantile.
        relative: the same divided by the largest stored value.
        tolerance: what ``absolute`` may be.
    """

    name: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.absolute <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name}: {self.absolute:.2e} (relative {self.relative:.2e}), allowed {self.tolerance:.2e}"


def compare(
    name: str, value: np.ndarray, stored: np.ndarray, dtype: torch.dtype, noise: Mapping[str, float | str]
) -> Comparison:
    """Compare one array with the stored one.

    Args:
        name: of the array in its file.
        value: what was computed in ``dtype``.
        stored: what the original computes in float64.
        noise: the file's differences between the original's float32 and float64.

    Raises:
        AssertionError: the shapes differ.
    """
    value, stored = np.asarray(value), np.asarray(stored)
    assert value.shape == stored.shape, f"{name}: expected shape {stored.shape}, got {value.shape}"
    if stored.size == 0:
        return Comparison(name, 0.0, 0.0, 0.0)
    exact = not np.issubdtype(stored.dtype, np.floating)
    if exact:
        # Share of entries that differ: of indices, classes, counts; of pixels where bits are stored.
        differing = _unpack(value, name) != _unpack(stored, name)
        difference, scale = differing.astype(np.float64), 1.0
    else:
        difference, scale = np.abs(value - stored.astype(np.float64)), float(np.abs(stored).max()) or 1.0
    gradient = name.endswith("grad_norm/values")
    if gradient:
        # Norms of different parameters lie orders of magnitude apart; each is judged by its own size, if it has one (the
        # last map of a pyramid gets no gradient where no region is that large).
        difference, scale, name = difference / np.where(stored == 0, 1.0, stored), 1.0, f"{name} (relative)"
    largest = float(difference.max())
    if dtype == torch.float64:
        return Comparison(name, largest, largest / scale, 0.0 if exact else FLOAT64_TOLERANCE * scale)
    if name.endswith("/mask_area"):
        pixels = float(np.abs(value - stored).max())
        return Comparison(name, pixels, pixels / float(stored.max()), MASK_AREA)
    if exact:
        share = float(difference.mean())
        return Comparison(name, share, share, 0.01)
    quantile = noise.get(f"{name} (99% quantile)")
    if quantile is not None:
        value_at_quantile = float(np.quantile(difference, 0.99))
        return Comparison(name, value_at_quantile, value_at_quantile / scale, 10 * quantile)
    tolerance = 10 * float(noise.get(name, GRADIENT_NOISE) if gradient else noise[name])
    if "loss/" in name and "_rpn_" not in name:
        tolerance = max(tolerance, END_TO_END_LOSS * scale)
    return Comparison(name, largest, largest / scale, tolerance)


def _unpack(array: np.ndarray, name: str) -> np.ndarray:
    return np.unpackbits(array) if name.endswith("_bits") else array
