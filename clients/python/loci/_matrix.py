"""The Matrix of common.proto as numpy arrays."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _protocol

_FLOAT32 = _protocol.enum_number("VectorType", "FLOAT32", "")
_FLOAT16 = _protocol.enum_number("VectorType", "FLOAT16", "")
_BFLOAT16 = _protocol.enum_number("VectorType", "BFLOAT16", "")
_INT8 = _protocol.enum_number("VectorType", "INT8", "")
_FLOAT64 = _protocol.enum_number("VectorType", "FLOAT64", "")
_TYPES = {np.dtype(np.float16): _FLOAT16, np.dtype(np.float32): _FLOAT32, np.dtype(np.float64): _FLOAT64}


def as_matrix(values: Any, argument: str, dtype: Any = None) -> np.ndarray:
    """`values` as a two-dimensional array of floats: float16, float32 or float64 as they are, anything else as float32; of `dtype` where given.

    ValueError or TypeError names `argument`.
    """
    array = as_array(values, argument)
    if array.ndim != 2:
        raise ValueError(f"{argument} has shape {array.shape}, not [rows, columns]")
    if dtype is None and array.dtype.newbyteorder("=") not in _TYPES:
        dtype = np.float32
    try:
        return array.astype(dtype or array.dtype.newbyteorder("="), copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument} has what is no number: {error}") from None


def as_array(values: Any, argument: str) -> np.ndarray:
    """Of real numbers, of whatever is one: a list, an array, a tensor."""
    if isinstance(values, (str, bytes)) or not (hasattr(values, "__array__") or isinstance(values, (Sequence, numbers.Real))):
        raise TypeError(f"{argument} is a {type(values).__name__}, not an array or a list of numbers")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # Such as of a tensor that requires a gradient.
        raise TypeError(f"{argument} can't be made an array: {error}") from None
    if array.dtype.kind in "cSUmM":
        raise ValueError(f"{argument} has values of type {array.dtype}, not real numbers")
    return array


def encode(array: np.ndarray) -> Any:
    """A Matrix message of what as_matrix() gave."""
    return _protocol.message("Matrix", rows=array.shape[0], cols=array.shape[1], type=_TYPES[array.dtype],
                             data=np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def decode(matrix: Any) -> np.ndarray:
    """[rows, cols], writable: float64 of FLOAT64, float16 of FLOAT16, float32 of every other type."""
    shape = (matrix.rows, matrix.cols)
    if matrix.type == _BFLOAT16:
        return (np.frombuffer(matrix.data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if matrix.type == _INT8:
        return np.frombuffer(matrix.data, np.int8).reshape(shape) * np.asarray(matrix.scales, np.float32)[:, None]
    kind = {_FLOAT64: np.float64, _FLOAT16: np.float16}.get(matrix.type, np.float32)
    return np.frombuffer(matrix.data, np.dtype(kind).newbyteorder("<")).astype(kind).reshape(shape)
