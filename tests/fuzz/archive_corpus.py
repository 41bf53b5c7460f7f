#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/archive: records of archives, good and bad, for archive_fuzz.cc. Needs protoc.

Usage, from the root of the repository: tests/fuzz/archive_corpus.py
"""

import pathlib
import struct
import subprocess

OUT = pathlib.Path("tests/fuzz/corpus/archive")
STORAGE = "proto/loci/storage/storage.proto"


def encode(message, text):
    """A message of the storage protos, from protobuf's text format."""
    proto = STORAGE if message.startswith("loci.storage") else "proto/loci/v1/common.proto"
    command = ["protoc", "-I.", f"--encode={message}", proto]
    return subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout


def header(**fields):
    base = {
        "format_version": "1",
        "store": '"movies"',
        "generation": '"20261121-094142-3f2a"',
        "revision": "7",
        "query_fingerprint": '"00112233445566aa"',
        "passage_fingerprint": '"8899aabbccddeeff"',
        "dim": "2",
        "vector_type": "VECTOR_TYPE_FLOAT32",
        "metric": '"inner_product"',
        "index": '"exact"',
        "passage_count": "2",
    }
    base.update(fields)
    return encode("loci.storage.ArchiveHeader", "\n".join(f"{k}: {v}" for k, v in base.items() if v is not None))


def passage(name, text="text"):
    return encode("loci.v1.Passage", f'id: "{name}" text: "{text}" metadata {{ key: "year" value {{ int64_value: 1979 }} }}')


def block(passages, vectors, element="<f"):
    body = struct.pack("<I", len(passages))
    for one in passages:
        body += struct.pack("<I", len(one)) + one
    return body + b"".join(struct.pack(element, v) for v in vectors)


def record(kind, payload):
    return struct.pack("<BH", kind, len(payload)) + payload


A, B = passage("a"), passage("b")
CASES = {
    "whole": record(1, header()) + record(2, block([A, B], [0.5, 0.25, -1, 2])),
    "two_blocks": record(1, header()) + record(2, block([A], [0.5, 0.25])) + record(2, block([B], [1, 2])),
    "float16": record(1, header(vector_type="VECTOR_TYPE_FLOAT16")) + record(2, block([A, B], [0.5, 0.25, -1, 2], "<e")),
    "empty": record(1, header(passage_count="0")),
    "nan": record(1, header()) + record(2, block([A, B], [0.5, float("nan"), -1, 2])),
    "same_id": record(1, header()) + record(2, block([A, A], [0.5, 1, -1, 2])),
    "wrong_order": record(1, header()) + record(2, block([B, A], [0.5, 1, -1, 2])),
    "too_many": record(1, header(passage_count="1")) + record(2, block([A, B], [0.5, 1, -1, 2])),
    "no_id": record(1, header()) + record(2, block([b"", B], [0.5, 1, -1, 2])),
    "short_vectors": record(1, header()) + record(2, block([A, B], [0.5])),
    "huge_count": record(1, header()) + record(2, b"\xff\xff\xff\xff" + A),
    "huge_length": record(1, header()) + record(2, struct.pack("<II", 1, 0xFFFFFFFF) + A + bytes(64)),
    "huge_dim": record(1, header(dim="2147483647")),
    "wide": record(1, header(dim="65536")) + record(2, block([A], [1.0] * 64)),
    "newer": record(1, header(format_version="2")),
    "int8": record(1, header(vector_type="VECTOR_TYPE_INT8")),
    "no_fingerprint": record(1, header(passage_fingerprint=None)),
    "block_first": record(2, block([A], [0.5, 1])),
    "two_headers": record(1, header()) + record(1, header()),
    "plain_begin": b"LOCIARC1" + bytes(40),
    "nothing": b"",
}

OUT.mkdir(parents=True, exist_ok=True)
for name, content in CASES.items():
    (OUT / name).write_bytes(content)
