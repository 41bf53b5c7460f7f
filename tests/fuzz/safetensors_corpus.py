#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/safetensors: small files, good and bad, for safetensors_fuzz.cc.

Usage, from the root of the repository: tests/fuzz/safetensors_corpus.py
"""

import json
import pathlib
import struct

OUT = pathlib.Path("tests/fuzz/corpus/safetensors")


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(header, data=b"", size=None):
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    one = tensor("F32", [2], 0, 8)
    files = {
        "empty": file({}),
        "three_types": file(
            {
                "__metadata__": {"format": "pt"},
                "a": tensor("F32", [2, 2], 0, 16),
                "b": tensor("F16", [3], 16, 22),
                "c": tensor("BF16", [1, 5], 22, 32),
                "d": tensor("I64", [1], 32, 40),
            },
            bytes(range(40)),
        ),
        "scalar_and_none": file({"s": tensor("F32", [], 0, 4), "n": tensor("F32", [0, 7], 4, 4)}, b"1234"),
        "spaces": file(json.dumps({"a": one}) + "     ", b"12345678"),
        "size_over_file": file({"a": one}, b"12345678", size=1000),
        "size_enormous": file({"a": one}, b"12345678", size=2**64 - 1),
        "not_json": file('{"a": {', b"12345678"),
        "named_twice": file('{"a":%s,"a":%s}' % (json.dumps(one), json.dumps(one)), b"12345678"),
        "overlap": file({"a": one, "b": tensor("F32", [2], 4, 12)}, b"123456789012"),
        "gap": file({"a": one, "b": tensor("F32", [1], 12, 16)}, b"1234567890123456"),
        "outside": file({"a": tensor("F32", [1000], 0, 4000)}, b"12345678"),
        "shape_overflow": file({"a": tensor("F32", [2**62, 4], 0, 0)}),
        "shape_2_63": file({"a": tensor("F32", [2**63], 0, 8)}, b"12345678"),
        "negative": file({"a": tensor("F32", [-2], 0, 8)}, b"12345678"),
        "float_offset": file('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}', b"12345678"),
        "dtype": file({"a": tensor("Q4", [2], 0, 8)}, b"12345678"),
        "nested": file('{"a":' + "[" * 2000, b""),
        "zero_byte": file("{}\0junk"),
        "short": b"\x02\0\0",
    }
    for name, content in files.items():
        (OUT / name).write_bytes(content)


if __name__ == "__main__":
    main()
