"""Comparison of arrays with the stored results of MMDetection, with the tolerances of ``tests/reference/README.md``.

In double precision, arrays must agree to the precision of the storage, and indices exactly. In single precision, the
tolerance is ten times the stored difference between MMDetection's own float32 and float64 results. For arrays in which
float32 can swap neighbors of a ranking, the 99% quantile of that difference is stored and compared instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

# Relative tolerance of losses that depend on proposals: swapped neighbors in the ranking change what the fixed sampler
# chooses (README.md).
END_TO_END_LOSS = 3e-4
# Relative float32 noise of gradient norms; measured on Mask R-CNN and not stored for every model (README.md).
GRADIENT_NOISE = 1e-3
# Tolerance of mask areas, in pixels: some probabilities are within a rounding error of the threshold.
MASK_AREA = 5
# Arrays are stored as float32, with a relative rounding error of 6e-8; the rest allows for another order of summation.
FLOAT64_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Comparison:
    """Difference of an array from the stored one.

    Attributes:
        name: name of the array.
        absolute: largest absolute difference, or its 99% quantile.
        relative: ``absolute`` divided by the largest stored value.
        tolerance: maximum of ``absolute``.
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


def marks(size: str, precision: str) -> list[pytest.MarkDecorator]:
    """Marks of the comparisons of a model: only T in single precision, the fastest, takes part in ``make test``."""
    return [] if (size, precision) == ("t", "float32") else [pytest.mark.slow]


def compare(
    name: str, value: np.ndarray, stored: np.ndarray, dtype: torch.dtype, noise: Mapping[str, float | str]
) -> Comparison:
    """Compare one array with the stored one.

    Args:
        name: name of the array in its file.
        value: array computed in ``dtype``.
        stored: array computed by MMDetection in float64.
        dtype: precision of ``value``.
        noise: differences between MMDetection's float32 and float64 results, from the same file.

    Raises:
        AssertionError: the shapes differ.
    """
    value, stored = np.asarray(value), np.asarray(stored)
    assert value.shape == stored.shape, f"{name}: expected shape {stored.shape}, got {value.shape}"
    if stored.size == 0:
        return Comparison(name, 0.0, 0.0, 0.0)
    exact = not np.issubdtype(stored.dtype, np.floating)
    if exact:
        # Compare indices, classes, counts and the pixels of bitmaps by the fraction of entries that differ.
        differing = _unpack(value, name) != _unpack(stored, name)
        difference, scale = differing.astype(np.float64), 1.0
    else:
        difference, scale = np.abs(value - stored.astype(np.float64)), float(np.abs(stored).max()) or 1.0
    gradient = name.endswith("grad_norm/values")
    if gradient:
        # The norms of different parameters differ by orders of magnitude, so each is compared relative to itself. A norm can
        # be 0: the coarsest pyramid level gets no gradient if no region is large enough.
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
