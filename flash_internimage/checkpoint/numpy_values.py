"""NumPy arrays and scalars in checkpoints, rebuilt from checked copies of their bytes.

NumPy's own functions for unpickling trust the file: an array of bytes whose state is set again with an object dtype makes
pointers of the bytes. The builders here take their place under NumPy's names.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .archive import BadFile

_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_MAX_DIMENSIONS = 32


class ArrayType:
    """Stands for the type ``numpy.ndarray``, which a file names as the first argument of :class:`Array`."""


class Dtype:
    """Stands for ``numpy.dtype``: booleans, integers and floats only.

    Args:
        code: kind and size in bytes: ``"f8"``.
    """

    def __init__(self, code: Any = None, align: Any = False, copy: Any = False) -> None:
        code = code.decode("ascii", "replace") if isinstance(code, bytes) else code
        if not (isinstance(code, str) and code in _CODES):
            raise BadFile(f"it holds NumPy values of dtype {code!r:.40}, expected one of {', '.join(_CODES)}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields = (*state, *[None] * 5)[:5] if isinstance(state, tuple) else [None] * 5
        order = order.decode("ascii", "replace") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise BadFile("it holds a NumPy dtype that is more than a number's")
        self.value = np.dtype(f"{order}{dtype_of(self).str[1:]}")


class Array:
    """Stands for ``numpy.core.multiarray._reconstruct``: an empty array, whose contents ``__setstate__`` sets."""

    value: np.ndarray | None = None

    def __init__(self, kind: Any = None, shape: Any = None, code: Any = None) -> None:
        if kind is not ArrayType:
            raise BadFile("it holds a subclass of NumPy's array, expected a plain array")

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise BadFile("it holds a NumPy array without shape, dtype and contents")
        _, shape, dtype, fortran, contents = state
        if not (isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)):
            raise BadFile(f"it holds a NumPy array of shape {shape!r:.40}")
        self.value = _from_bytes(contents, dtype_of(dtype), math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def scalar(dtype: Any = None, contents: Any = None) -> np.generic:
    """Stand for ``numpy.core.multiarray.scalar``: return a NumPy scalar."""
    return _from_bytes(contents, dtype_of(dtype), 1)[0]


def dtype_of(dtype: Any) -> np.dtype:
    """Return NumPy's dtype of a :class:`Dtype`.

    Raises:
        BadFile: the argument is not a :class:`Dtype`, or has not been initialized.
    """
    value = dtype.__dict__.get("value") if type(dtype) is Dtype else None
    if not isinstance(value, np.dtype):
        raise BadFile("it holds a NumPy value without a dtype")
    return value


BUILDERS: dict[str, object] = {
    "numpy.ndarray": ArrayType,
    "numpy.dtype": Dtype,
    # Files written with NumPy 1 use the old name of the module.
    **{
        f"numpy.{core}.multiarray.{name}": builder
        for core in ("core", "_core")
        for name, builder in (("scalar", scalar), ("_reconstruct", Array))
    },
}
"""NumPy's name in a file -> what is built under this name."""


def _from_bytes(contents: Any, dtype: np.dtype, count: int) -> np.ndarray:
    if not isinstance(contents, bytes) or len(contents) != count * dtype.itemsize:
        given = f"{len(contents)} bytes" if isinstance(contents, bytes) else type(contents).__name__
        raise BadFile(f"it holds {count} NumPy values of dtype {dtype} in {given}, expected {count * dtype.itemsize} bytes")
    return np.frombuffer(contents, dtype=dtype).copy()
