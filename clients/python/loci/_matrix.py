"""The Matrix of common.proto as numpy arrays."""

from __future__ import annotations

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
    """`values` as a two-dimensional array of floats: float16, float32 or float64 as they are, anything else as float32; of `dtype` where given."""
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{argument} has shape {array.shape}, not [rows, columns]")
    if dtype is None and array.dtype.newbyteorder("=") not in _TYPES:
        dtype = np.float32
    return array.astype(dtype or array.dtype.newbyteorder("="), copy=False)


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
