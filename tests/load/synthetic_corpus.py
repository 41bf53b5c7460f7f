"""Passages with vectors that no encoder made, for tools that are about the store: clustered, of unit length, the same each time."""

from __future__ import annotations

import functools
import math
import random
import struct
from typing import Any, Iterator

DIM = 384
BATCH = 1_000
CLUSTERS = 500
VECTORS = 10_000  # That are made; the others differ from them in a few numbers.
WORDS = ("river city north music engine garden theory market winter signal copper island harbour letter window forest planet bridge "
         "silver number the of a in and to with from under over").split()


def texts(count: int, seed: int, words: int = 60) -> Iterator[str]:
    choose = random.Random(seed).choices
    for i in range(count):
        yield f"passage {seed} {i} " + " ".join(choose(WORDS, k=words))


@functools.cache
def make_vectors() -> list[bytes]:
    """Of unit length, around the centres of clusters."""
    gauss = random.Random(1).gauss
    centres = [[gauss(0, 1) for _ in range(DIM)] for _ in range(CLUSTERS)]
    vectors = []
    for i in range(VECTORS):
        vector = [value + gauss(0, 0.5) for value in centres[i % CLUSTERS]]
        length = math.sqrt(math.fsum(value * value for value in vector))
        vectors.append(struct.pack(f"<{DIM}f", *(value / length for value in vector)))
    return vectors


def vector_batches(client: Any, count: int, label: str = "p", words: int = 60, metadata: bool = False) -> Iterator[dict[str, Any]]:
    """Batches of an ingest: ids are `label` and a number, each text begins with "passage"."""
    vectors = make_vectors()
    float32 = client.value("VectorType", "VECTOR_TYPE_FLOAT32")
    gauss = random.Random(2).gauss
    text = texts(count, 1, words)
    for first in range(0, count, BATCH):
        rows = range(first, min(first + BATCH, count))
        data = bytearray()
        for i in rows:
            data += vectors[i % VECTORS]
            data[-16:] = struct.pack("<4f", *(gauss(0, 0.05) for _ in range(4)))  # No two are the same.
        passages = [{"id": f"{label}{i:08d}", "text": next(text)} for i in rows]
        if metadata:
            for i, passage in zip(rows, passages):
                passage["metadata"] = {"lang": {"string_value": ("en", "de", "fr")[i % 3]}, "year": {"int64_value": 1900 + i % 120},
                                       "number": {"int64_value": i}}
        yield {"passages": passages, "vectors": {"rows": len(rows), "cols": DIM, "type": float32, "data": bytes(data)}}
