#!/usr/bin/env python3
"""Our encoder against OpenVINO, onnxruntime and PyTorch: the same tokens of real texts, in turns in one run.

    tests/peers/setup.sh VENV
    bazel build //encoder:encoder_benchmark //tests/peers:roof_benchmark
    VENV/bin/python tests/peers/encoder_benchmark.py models/all-MiniLM-L6-v2 PASSAGES.jsonl.gz --ours bazel-bin/encoder/encoder_benchmark \\
        --roof bazel-bin/tests/peers/roof_benchmark --precision int8 --shapes 8x32,32x32,32x128,8x256,1x8,1x16,mixed [--quick]

A shape is SEQUENCESxTOKENS: batches of so many sequences, all of that length. `mixed` is 256 sequences of 8 to 256 tokens (mean 40): ours
takes them packed in their order, a peer sorted by length in padded batches of its best size. `texts` is the same with 48 passages as they are, cut to
256 tokens. Each peer takes the fastest of its modes
(static and dynamic shapes, with and without its transformer fusions, by channel or not). One thread is judged by CPU time; more by wall time, and
only where the machine is idle. Without --ours the peers alone are timed.

Prints for each shape and peer the median and p10 of the paired ratios (above 1: ours is faster), both rates, the part of the roof that ours
reaches, and the ratio of ours to itself, which must be 1.00 within the noise. With --fidelity, cosine and top-10 overlap to float32 of ours and
of the peers over real passages.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import random
import sys
import tempfile

import engines
import measure
import numpy as np

INT8_MEAN_SHAPES = ["8x32", "32x32", "32x128", "8x256"]  # The goal for int8 is a geometric mean over these.
SHORT_SHAPES = ["1x8", "1x16"]
MIXED = "mixed"
WHOLE = "texts"
TURN_TOKENS = 1024  # A turn has at least so many, to last long enough.
# What an encoder computes in, and the roofs of that: a narrow type's own instruction may be slower than float32's.
PRECISIONS = {"float32": ["float32"], "bfloat16": ["bfloat16", "float32"], "float16": ["float16"], "int8": ["int8"]}


def tokenizer(model_dir: str):
    """The checkpoint's, which neither cuts nor pads."""
    import tokenizers

    out = tokenizers.Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    out.no_truncation()
    out.no_padding()
    return out


class Texts:
    """Token ids of a file's texts, in a fixed random order."""

    def __init__(self, model_dir: str, path: pathlib.Path) -> None:
        self.tokenizer = tokenizer(model_dir)
        self.texts = measure.mixed_texts(path)

    def passages(self, first: int, count: int, limit: int = 256) -> list:
        """`count` whole texts from the first on, cut to `limit` tokens."""
        return [self.cut(self.tokenizer.encode(text).ids, limit) for text in self.texts[first : first + count]]

    def of_lengths(self, lengths: list) -> list:
        """Texts of exactly these lengths, each cut from one that has as many tokens."""
        spare, out, next_text = [], [None] * len(lengths), 5000  # Others than what peers are calibrated on.
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        for i in order:
            found = next((s for s in spare if len(s) >= lengths[i]), None)
            if found is not None:
                spare.remove(found)
            while found is None:
                ids = self.tokenizer.encode(self.texts[next_text % len(self.texts)]).ids
                next_text += 1
                if len(ids) >= lengths[i]:
                    found = ids
                elif len(spare) < 64:
                    spare.append(ids)
            out[i] = self.cut(found, lengths[i])
        return out

    @staticmethod
    def cut(ids: list, limit: int) -> list:
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def tokens_of(sequences: list) -> int:
    return sum(map(len, sequences))


def mixed_lengths(count: int, low: int = 8, high: int = 256, mean: float = 40.0) -> list:
    """Lengths of short and long texts as they come together: log-normal, cut to [low, high], with that mean."""
    generator = random.Random(3)
    draws = [generator.gauss(0.0, 0.8) for _ in range(count)]

    def lengths(location: float) -> list:
        return [min(high, max(low, round(math.exp(location + draw)))) for draw in draws]

    least, most = 0.0, 8.0
    for _ in range(50):
        middle = (least + most) / 2
        least, most = (middle, most) if sum(lengths(middle)) < mean * count else (least, middle)
    return lengths(least)


def flop(model_dir: str, sequences: list) -> float:
    """Multiplications and additions of the layers, as encoder_benchmark counts them."""
    with open(os.path.join(model_dir, "config.json")) as file:
        config = json.load(file)
    dim = config["hidden_size"]
    dense = 4.0 * dim * dim + 2.0 * dim * config["intermediate_size"]
    return sum(config["num_hidden_layers"] * len(ids) * (2 * dense + 4 * len(ids) * dim) for ids in sequences)


class Ours:
    """encoder_benchmark with a precision; use as a context."""

    def __init__(self, binary: str, model_dir: str, sequences: list, precision: str, max_batch_tokens: int, threads: int, folder: str) -> None:
        self.threads, self.folder = threads, folder
        handle, ids_file = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w") as file:
            file.writelines(" ".join(map(str, ids)) + "\n" for ids in sequences)
        self.child = measure.Child([binary, model_dir, ids_file, threads, max_batch_tokens, f"--precision={precision}"])
        self.precision = self.child.ask("spec").get("element_type", "float32")
        if precision not in ("auto", self.precision):
            sys.exit(f"{binary} computes in {self.precision}, not in {precision}")
        self.count = len(sequences)

    def __enter__(self) -> "Ours":
        return self

    def __exit__(self, *args) -> None:
        self.child.__exit__(*args)

    def turn(self) -> float:
        return self.child.ask("run")["cpu_s" if self.threads == 1 else "wall_s"]

    def vectors(self) -> np.ndarray:
        path = os.path.join(self.folder, "vectors")
        self.child.ask("write " + path)
        return np.fromfile(path, dtype=np.float32).reshape(self.count, -1)


@dataclasses.dataclass
class Measured:
    """One shape. `gflop` and `tokens` are of a turn, `precision` is what ours computed in, `modes` names each peer's fastest."""

    compared: measure.Comparison
    gflop: float
    tokens: int
    precision: str
    modes: dict


class EncoderPeers:
    """Measures one checkpoint on the texts of one file; what the command line and the whole table both use."""

    def __init__(self, model_dir: str, passages: pathlib.Path, work: pathlib.Path, threads: int = 1, quick: bool = False) -> None:
        self.model_dir, self.threads = model_dir, threads
        self.mixed_count, self.repeats = (64, 1) if quick else (256, 2)
        self.texts = Texts(model_dir, passages)
        calibration = self.texts.passages(0, engines.CALIBRATION_TEXTS)
        self.checkpoint = engines.Checkpoint(model_dir, work / engines.version_key(), calibration)

    def sequences(self, shape: str) -> tuple:
        """The sequences of a shape, and how many make a batch (0: sort them and try several)."""
        if shape == MIXED:
            return self.texts.of_lengths(mixed_lengths(self.mixed_count)), 0
        if shape == WHOLE:
            return self.texts.passages(20_000, 48), 0
        batch, length = map(int, shape.split("x"))
        batches = -(-TURN_TOKENS // (batch * length))
        return self.texts.of_lengths([length] * (batch * batches)), batch

    def best_mode(self, name: str, sequences: list, batch: int) -> engines.Mode:
        engine = engines.load(name, self.checkpoint, self.threads)
        modes = {}
        for size in [batch] if batch else [4, 8, 16, 32]:
            for mode in engine.modes(engines.sorted_batches(sequences, size)):
                mode.name += "" if batch else f", batches of {size}"
                modes[mode.name] = mode
        return modes[measure.fastest({name: measure.timed(mode.run, self.threads) for name, mode in modes.items()}, self.repeats)]

    def compare(self, binary: str, precision: str, shape: str, peers: list, rounds: int) -> "Measured":
        sequences, batch = self.sequences(shape)
        modes = {name: self.best_mode(name, sequences, batch) for name in peers}
        turns = {name: measure.timed(mode.run, self.threads) for name, mode in modes.items()}
        max_batch_tokens = batch * len(sequences[0]) if batch else 4096
        with tempfile.TemporaryDirectory() as folder, Ours(
            binary, self.model_dir, sequences, precision, max_batch_tokens, self.threads, folder
        ) as ours:
            compared = measure.compare(ours.turn, turns, rounds)
            precision = ours.precision
        names = {name: mode.name for name, mode in modes.items()}
        return Measured(compared, flop(self.model_dir, sequences) * 1e-9, tokens_of(sequences), precision, names)

    def peers_alone(self, shape: str, peers: list, rounds: int) -> None:
        sequences, batch = self.sequences(shape)
        gflop, tokens = flop(self.model_dir, sequences) * 1e-9, tokens_of(sequences)
        for name in peers:
            mode = self.best_mode(name, sequences, batch)
            turn = measure.timed(mode.run, self.threads)
            seconds = sorted(turn() for _ in range(rounds))[rounds // 2]
            print(f"{shape:>7}  {engines.LABELS[name]:<17} {gflop / seconds:6.1f} Gop/s {tokens / seconds:8.0f} tokens/s  ({mode.name})", flush=True)

    def fidelity(self, binary, precisions: list, peers: list, count: int, query_count: int) -> dict:
        """Name -> engines.fidelity over `count` real passages, for each precision of ours ("ours int8") and each peer."""
        sequences = self.texts.passages(10_000, count)
        batches = engines.sorted_batches(sequences, 16)

        def vectors(name: str) -> np.ndarray:
            fastest = self.best_mode(name, sequences[:64], 16).name
            return next(m for m in engines.load(name, self.checkpoint, self.threads).modes(batches) if m.name == fastest).vectors()

        truth, out = vectors("torch-fp32"), {}
        with tempfile.TemporaryDirectory() as folder:
            for precision in precisions:
                with Ours(binary, self.model_dir, sequences, precision, 4096, self.threads, folder) as ours:
                    out[f"ours {precision}"] = engines.fidelity(ours.vectors(), truth, query_count)
        for name in peers:
            out[name] = engines.fidelity(vectors(name), truth, query_count)
        return out


def geometric_mean(values: list) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir")
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--ours", help="encoder_benchmark; without it the peers alone are timed")
    parser.add_argument("--roof", help="roof_benchmark")
    parser.add_argument("--precision", default="int8", choices=["auto", *PRECISIONS], help="auto: what the encoder takes by itself")
    parser.add_argument("--shapes", default=",".join([*INT8_MEAN_SHAPES, *SHORT_SHAPES, MIXED]))
    parser.add_argument("--peers", help="names, separated by commas: " + ", ".join(engines.ENGINES) + "; default: what the precision has to beat")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 rounds, 64 mixed sequences, and fidelity over 200 passages")
    parser.add_argument("--fidelity", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path.home() / ".cache/loci/peers", help="keeps the converted models")
    args = parser.parse_args()
    rounds = 3 if args.quick else args.rounds
    peers = args.peers.split(",") if args.peers else engines.peers_of(args.precision)
    if unknown := [name for name in peers if name not in engines.ENGINES]:
        sys.exit(f"encoder_benchmark: no peer is called {unknown[0]!r}")

    measured = EncoderPeers(args.model_dir, args.passages, args.work, args.threads, args.quick)
    shapes = [shape for shape in args.shapes.split(",") if shape]
    if not args.ours:
        for shape in shapes:
            measured.peers_alone(shape, peers, rounds)
        return
    roofs = measure.Roofs(args.roof)
    ratios, load = {name: {} for name in peers}, 0.0
    for shape in shapes:
        result = measured.compare(args.ours, args.precision, shape, peers, rounds)
        compared, gflop, tokens = result.compared, result.gflop, result.tokens
        roof = roofs.of(PRECISIONS[result.precision])
        load = max(load, compared.other_load)
        part = f" = {100e9 * gflop / compared.ours_s / roof / args.threads:.0f} % of the roof" if roof else ""
        print(f"{shape:>7}  ours {result.precision:<12} {gflop / compared.ours_s:6.1f} Gop/s {tokens / compared.ours_s:8.0f} tokens/s{part}; A/A {compared.same:.3f}")
        for name, side in compared.peers.items():
            ratios[name][shape] = side.median()
            print(f"{'':>7}  {engines.LABELS[name]:<17} {gflop / side.median_s():6.1f} Gop/s {tokens / side.median_s():8.0f} tokens/s"
                  f"  ratio {side.median():.3f}, p10 {side.p10():.3f}  ({result.modes[name]})", flush=True)  # fmt: skip
    for name, by_shape in ratios.items():
        if all(shape in by_shape for shape in INT8_MEAN_SHAPES):
            print(f"geometric mean over {', '.join(INT8_MEAN_SHAPES)} against {engines.LABELS[name]}: "
                  f"{geometric_mean([by_shape[shape] for shape in INT8_MEAN_SHAPES]):.3f}")  # fmt: skip
    if args.threads > 1 and load > 0.2:
        print(f"ratios not judged: others used {load:.1f} cores")
    print(roofs.text())
    if args.fidelity:
        for name, value in measured.fidelity(args.ours, [args.precision], peers, *((200, 50) if args.quick else (1200, 200))).items():
            print(f"{engines.LABELS.get(name, name):<17} {engines.fidelity_text(value)}", flush=True)


if __name__ == "__main__":
    main()
