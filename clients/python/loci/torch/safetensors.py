"""Safetensors files: 8 bytes of length, little-endian; a JSON header of that length, {name: {dtype, shape, data_offsets}}; the tensors' bytes, row-major,
without gap or overlap."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping

import numpy as np

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_NAMES = {np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int64): "I64"}
_MAX_HEADER_BYTES = 100_000_000  # As the format's own library.
_MAX_RANK = 8  # As the server.


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Tensors by name, mapped from the file and read-only; BF16 is made float32. ValueError names what is wrong with the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if size < 8:
            raise ValueError(f"{path}: a file of {size} bytes, which begins with the 8 of a header's length")
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path}: a header of {length} bytes in a file of {size}")
        try:
            header = json.loads(file.read(length).decode(), object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is no JSON object, but {str(header)[:100]}")
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else np.empty(0, np.uint8)
    header.pop("__metadata__", None)
    tensors = {}
    places = []
    for name, entry in header.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            dtype = np.dtype(_DTYPES[kind])
            if not isinstance(shape, list) or any(type(number) is not int or number < 0 for number in (*shape, begin, end)) or len(shape) > _MAX_RANK:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: tensor {name!r} is not of a dtype, shape (at most {_MAX_RANK} dimensions) and place that are known: "
                             f"{str(entry)[:200]}") from None
        if not begin <= end <= data.size or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path}: tensor {name!r} of {kind} {shape} has the bytes {begin} to {end} of {data.size}")
        places.append((begin, end, name))
        try:
            values = np.frombuffer(data[begin:end], dtype).reshape(shape)
        except (ValueError, OverflowError):  # Of nothing, and yet too large for numpy in one dimension.
            raise ValueError(f"{path}: tensor {name!r} has the shape {shape}, which is too large") from None
        tensors[name] = (values.astype(np.uint32) << 16).view(np.float32) if kind == "BF16" else values
    filled = 0
    for begin, end, name in sorted(places):
        if begin != filled:
            raise ValueError(f"{path}: tensor {name!r} begins at byte {begin}, the one before it ends at {filled}")
        filled = end
    if filled != data.size:
        raise ValueError(f"{path}: the tensors end at byte {filled} of {data.size}")
    return tensors


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return result


def dumps(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A file's bytes, tensors by name. float64, float32, float16 and int64."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    pieces = []
    offset = 0
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        piece = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {"dtype": _NAMES[values.dtype], "shape": list(values.shape), "data_offsets": [offset, offset + len(piece)]}
        pieces.append(piece)
        offset += len(piece)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The tensors begin aligned.
    return b"".join([struct.pack("<Q", len(text)), text, *pieces])
