"""Vectors of real texts for searches: pieces of 12 words of a file's passages, encoded once and kept."""

import pathlib
import random
import zlib

import engines
import measure
import numpy as np

WORDS = 12


def pieces(path: pathlib.Path, count: int) -> list:
    """`count` different pieces in a fixed random order; fewer where the file has fewer."""
    found = {}
    for text in measure.read_texts(path):
        words = text.split()
        for first in range(0, len(words) - 4, WORDS):
            found[" ".join(words[first : first + WORDS])] = None
    out = list(found)
    random.Random(2).shuffle(out)
    return out[:count]


def make(model_dir: str, passages: pathlib.Path, work: pathlib.Path, row_count: int, query_count: int) -> tuple:
    """(rows, queries), float32 [n, dim] of unit length, as OpenVINO's int8 encoder gives them: the queries are other pieces than the rows."""
    import encoder_benchmark

    texts = pieces(passages, row_count + query_count)
    # Fewer pieces are the first of more.
    source = f"vectors_{zlib.crc32(chr(10).join(texts[:1000]).encode()):08x}_"
    kept = {int(path.stem[len(source) :]): path for path in work.glob(f"{source}*[0-9].npy")}
    count = min((n for n in kept if n >= len(texts)), default=len(texts))
    path = kept.get(count, work / f"{source}{count}.npy")
    if not path.exists():
        peers = encoder_benchmark.EncoderPeers(model_dir, passages, work)
        ids = [peers.texts.cut(e.ids, 64) for e in peers.texts.tokenizer.encode_batch_fast(texts)]
        mode = engines.load("openvino-int8", peers.checkpoint).modes(engines.sorted_batches(ids, 32))[0]
        part = path.with_suffix(".part.npy")
        np.save(part, mode.vectors())
        part.rename(path)
    vectors = np.load(path, mmap_mode="r")[: len(texts)]
    return np.ascontiguousarray(vectors[query_count:]), np.ascontiguousarray(vectors[:query_count])
