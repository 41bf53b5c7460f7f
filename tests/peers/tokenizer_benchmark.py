#!/usr/bin/env python3
"""Loci's tokenizer against Hugging Face's `tokenizers`: the same texts, one thread, CPU time, in turns.

    bazel build //encoder:tokenizer_benchmark
    python tests/peers/tokenizer_benchmark.py bazel-bin/encoder/tokenizer_benchmark models/all-MiniLM-L6-v2 ../shared/data/passages.jsonl.gz

TEXTS is JSON lines with "text" (and "title"), or plain lines; gzipped or not. Some of them from everywhere in the file are taken, and their ids
compared. The peer is timed in its best single-thread mode, encode_batch_fast (no offsets), and without batches, as a server would call it. Prints
median and p10 of the rounds' ratios, tokens per second, and an A/A ratio of Loci with itself, which must be 1.00.
"""

import argparse
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import measure  # noqa: E402  (after the environment that the next one reads)
import tokenizers  # noqa: E402


class Measured:
    """What both this command line and the whole table take: the ids compared, then each way of calling the peer against ours."""

    def __init__(self, binary, model, texts_file, limit):
        self.binary, self.model = binary, model
        self.texts = measure.mixed_texts(texts_file)[:limit]
        self.peer = tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
        self.peer.no_truncation()
        self.peer.no_padding()
        self.size_bytes = sum(len(text.encode("utf-8")) for text in self.texts)
        self.tokens = 0

    def batch(self):
        self.peer.encode_batch_fast(self.texts, add_special_tokens=False)

    def single(self):
        for text in self.texts:
            self.peer.encode(text, add_special_tokens=False)

    def compare(self, rounds):
        """Returns the Comparison; ends the program where the ids differ."""
        with tempfile.TemporaryDirectory() as folder:
            texts_file, ids_file = os.path.join(folder, "texts"), os.path.join(folder, "ids")
            with open(texts_file, "wb") as out:
                for text in self.texts:
                    utf8 = text.encode("utf-8")
                    out.write(struct.pack("<I", len(utf8)) + utf8)
            subprocess.check_call([self.binary, self.model, texts_file, ids_file])
            encodings = self.peer.encode_batch_fast(self.texts, add_special_tokens=False)
            expected = b"".join(struct.pack(f"<I{len(e.ids)}i", len(e.ids), *e.ids) for e in encodings)
            self.tokens = sum(len(e.ids) for e in encodings)
            if pathlib.Path(ids_file).read_bytes() != expected:
                sys.exit("the ids differ")
            with measure.Child([self.binary, self.model, texts_file]) as child:
                return measure.compare(
                    lambda: int(child.ask_line("run").split()[0]) / 1e9,
                    {"encode_batch_fast": measure.timed(self.batch), "encode, one text at a time": measure.timed(self.single)},
                    rounds,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=4000, help="so many texts of the file")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()

    measured = Measured(args.binary, str(args.model), args.texts, args.limit)
    compared = measured.compare(args.rounds)
    tokens = measured.tokens
    print(f"tokenizers {tokenizers.__version__}; {len(measured.texts)} texts, {measured.size_bytes} bytes, {tokens} tokens of {args.texts.name}; ids identical")
    for name, side in compared.peers.items():
        print(f"against {name}: {side.median():.2f}x median, {side.p10():.2f}x p10 of {args.rounds} rounds; "
              f"Loci {tokens / compared.ours_s / 1e6:.2f} M tokens/s, peer {tokens / side.median_s() / 1e6:.2f}; A/A {compared.same:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
