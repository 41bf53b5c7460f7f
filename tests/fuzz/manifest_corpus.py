#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/manifest: bodies of manifests, good and bad, for manifest_fuzz.cc. Needs protoc.

Usage, from the root of the repository: tests/fuzz/manifest_corpus.py
"""

import pathlib
import subprocess

OUT = pathlib.Path("tests/fuzz/corpus/manifest")
SHA = "0123456789abcdef" * 4


def text(index="exact", extra="", **fields):
    """A manifest in protobuf's text format; `fields` replace its own, None leaves one out."""
    base = {
        "format_version": "1",
        "generation": '"20261121-094142-3f2a"',
        "store": '"default"',
        "query_fingerprint": '"00112233445566aa"',
        "passage_fingerprint": '"8899aabbccddeeff"',
        "base_revision": "7",
        "passage_count": "3",
        "vector_count": "3",
        "dim": "4",
        "vector_type": "VECTOR_TYPE_FLOAT32",
        "metric": '"inner_product"',
        "index": f'"{index}"',
        "created_unix_us": "1795254102000000",
        "recall_at_10": "0.98",
        "recall_query_count": "200",
        "vectors": f'files {{ path: "vectors.bin" size_bytes: 112 sha256: "{SHA}" }}',
        "passages": f'files {{ path: "passages/CURRENT" size_bytes: 16 sha256: "{SHA}" }}',
    }
    base.update(fields)
    lines = [v if k in ("vectors", "passages") else f"{k}: {v}" for k, v in base.items() if v is not None]
    return "\n".join(lines) + "\n" + extra


def file(path, size=1, sha=SHA):
    return f'files {{ path: "{path}" size_bytes: {size} sha256: "{sha}" }}'


CASES = {
    "exact": text(),
    "faiss": text("IVF16,Flat", file("index.faiss", 999) + file("passages/000008.sst", 4096)),
    "probes": text(extra='probes { row: 0 id: "a" } probes { row: 2 id: "c" }'),
    "empty_generation": text(passage_count="0", vector_count="0", vectors=file("vectors.bin", 64)),
    "float16": text(vector_type="VECTOR_TYPE_FLOAT16", vectors=file("vectors.bin", 88)),
    "columns": text(format_version="2", extra=file("columns.bin", 64)),
    "codes": text(format_version="3", extra=file("vectors.int8", 1088)),
    "codes_of_another_size": text(format_version="3", extra=file("vectors.int8", 1089)),
    "codes_before_their_version": text(format_version="2", extra=file("vectors.int8", 1088)),
    "no_codes": text(format_version="3"),
    "newer": text(format_version="4"),
    "version_zero": text(format_version=None),
    "path_up": text(extra=file("../../../etc/passwd")),
    "path_up_inside": text(extra=file("passages/../MANIFEST")),
    "path_absolute": text(extra=file("/etc/passwd")),
    "path_twice": text(extra=file("passages/CURRENT")),
    "path_nul": text(extra=file("passages/a\\000b")),
    "negative_size": text(extra=file("passages/x", -1)),
    "short_sha": text(extra=file("passages/x", 1, "00")),
    "negative_count": text(passage_count="-1"),
    "huge_count": text(passage_count="9223372036854775807", vector_count="9223372036854775807"),
    "huge_dim": text(dim="2147483647"),
    "negative_dim": text(dim="-4"),
    "int8": text(vector_type="VECTOR_TYPE_INT8"),
    "unknown_type": text(vector_type="77"),
    "recall_nan": text(recall_at_10="nan"),
    "recall_two": text(recall_at_10="2"),
    "probe_outside": text(extra='probes { row: 3 id: "d" }'),
    "generation_up": text(generation='"../g"'),
    "no_vectors": text(vectors=None),
    "index_missing": text("HNSW32"),
    "index_unexpected": text(extra=file("index.faiss")),
}

OUT.mkdir(parents=True, exist_ok=True)
for name, content in CASES.items():
    command = ["protoc", "-I.", "--encode=loci.storage.Manifest", "proto/loci/storage/storage.proto"]
    body = subprocess.run(command, input=content.encode(), stdout=subprocess.PIPE, check=True).stdout
    (OUT / name).write_bytes(body)
(OUT / "nothing").write_bytes(b"")
(OUT / "garbage").write_bytes(bytes(range(256)) * 4)
(OUT / "nested").write_bytes(b"\x8a\x01\xff\xff\xff\xff\x0f" + b"\x8a\x01\x7f" * 40)
