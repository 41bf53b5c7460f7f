#!/usr/bin/env python3
"""Loci's tokenizer against Hugging Face's `tokenizers`: the same texts, one thread, CPU time, turns in ABBA order.

    bazel build //encoder:tokenizer_benchmark
    python tests/peers/tokenizer_benchmark.py bazel-bin/encoder/tokenizer_benchmark models/all-MiniLM-L6-v2 ../shared/data/passages.jsonl.gz

TEXTS is JSON lines with "text" (and "title"), or plain lines; gzipped or not. First the ids of all texts are compared; then each round
times Loci, peer, peer, Loci and gives one ratio. The peer is timed in its best single-thread mode, encode_batch_fast (no offsets),
and once without batches, as a server would call it. Prints median and p10 of the ratios, tokens per second, and an A/A ratio of Loci
with itself, which must be 1.00.
"""

import argparse
import gzip
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402  (after the environment that it reads)


def read_texts(path, limit):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    json_lines = ".jsonl" in path.suffixes
    out = []
    with opened as lines:
        for line in lines:
            if json_lines:
                row = json.loads(line)
                out.append((row.get("title", "") + " " + row["text"]).strip())
            else:
                out.append(line.rstrip("\n"))
            if len(out) == limit:
                break
    return out


class Loci:
    def __init__(self, binary, model, texts_file):
        self.process = subprocess.Popen([binary, model, texts_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        nanos, tokens, _ = map(int, self.process.stdout.readline().split())
        return nanos / 1e9, tokens


def percentile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=4000, help="so many texts of the file")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()

    texts = read_texts(args.texts, args.limit)
    peer = tokenizers.Tokenizer.from_file(str(args.model / "tokenizer.json"))
    peer.no_truncation()
    peer.no_padding()

    def peer_batch():
        start = time.process_time()
        peer.encode_batch_fast(texts, add_special_tokens=False)
        return time.process_time() - start

    def peer_single():
        start = time.process_time()
        for text in texts:
            peer.encode(text, add_special_tokens=False)
        return time.process_time() - start

    with tempfile.TemporaryDirectory() as folder:
        texts_file, ids_file = os.path.join(folder, "texts"), os.path.join(folder, "ids")
        with open(texts_file, "wb") as out:
            for text in texts:
                utf8 = text.encode("utf-8")
                out.write(struct.pack("<I", len(utf8)) + utf8)
        subprocess.check_call([args.binary, str(args.model), texts_file, ids_file])
        expected = b"".join(struct.pack(f"<I{len(ids)}i", len(ids), *ids) for ids in
                            (encoding.ids for encoding in peer.encode_batch_fast(texts, add_special_tokens=False)))
        if pathlib.Path(ids_file).read_bytes() != expected:
            sys.exit("the ids differ")

        loci = Loci(args.binary, str(args.model), texts_file)
        _, tokens = loci.seconds()
        size = sum(len(text.encode("utf-8")) for text in texts)
        print(f"tokenizers {tokenizers.__version__}; {len(texts)} texts, {size} bytes, {tokens} tokens of {args.texts.name}; ids identical")
        for name, peer_seconds in (("encode_batch_fast", peer_batch), ("encode, one text at a time", peer_single)):
            peer_seconds()
            ratios, loci_times, peer_times, same = [], [], [], []
            for _ in range(args.rounds):
                a1, b1, b2, a2 = loci.seconds()[0], peer_seconds(), peer_seconds(), loci.seconds()[0]
                a3, a4 = loci.seconds()[0], loci.seconds()[0]  # Both with warm caches, unlike a1 and a2.
                ratios.append((b1 + b2) / (a1 + a2))
                same.append(a4 / a3)
                loci_times += [a1, a2]
                peer_times += [b1, b2]
            print(f"against {name}: {statistics.median(ratios):.2f}x median, {percentile(ratios, 0.1):.2f}x p10 of {args.rounds} rounds; "
                  f"Loci {tokens / statistics.median(loci_times) / 1e6:.2f} M tokens/s, peer {tokens / statistics.median(peer_times) / 1e6:.2f}; "
                  f"A/A {statistics.median(same):.3f}")
        loci.process.stdin.close()
        loci.process.wait()


if __name__ == "__main__":
    main()
