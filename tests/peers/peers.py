#!/usr/bin/env python3
"""Every CPU row of the goals in one run, as a table: ours against the best of other programs, the same texts and vectors, in turns.

    tests/peers/run.sh VENV PASSAGES.jsonl.gz [--quick]          makes VENV where it is not there, builds what is measured, and runs this
    VENV/bin/python tests/peers/peers.py bazel-bin models/all-MiniLM-L6-v2 PASSAGES.jsonl.gz [--quick] [--only int8,server]

Ratios are the peer's time by ours, so above 1 where ours is faster; the median and p10 over the rounds. A/A is ours by itself. One thread and CPU
time unless a row says otherwise. Every peer runs in the fastest of its modes that engines.py has, PyTorch eagerly alone. Each line is printed once
it is known; the table follows.
"""

import argparse
import dataclasses
import os
import pathlib
import platform
import re
import subprocess
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import encoder_benchmark  # noqa: E402  (after the environment that tokenizers reads)
import engines  # noqa: E402
import measure  # noqa: E402

SECTIONS = ["half", "int8", "tokenizer", "search", "softmax", "server"]
ROWS = 400_000


@dataclasses.dataclass
class Row:
    what: str
    against: str
    median: str
    p10: str = "-"
    roof: str = "-"
    fidelity: str = "-"
    same: str = "-"
    goal: str = ""

    def cells(self) -> list:
        return [self.what, self.against, self.median, self.p10, self.roof, self.fidelity, self.same, self.goal]


HEADINGS = ["what", "against", "ratio", "p10", "of the roof", "fidelity", "A/A", "goal"]


class Table:
    def __init__(self) -> None:
        self.rows = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print("  ".join(row.cells()), flush=True)

    def markdown(self) -> str:
        lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
        return "\n".join([*lines, *("| " + " | ".join(row.cells()) + " |" for row in self.rows)])


@dataclasses.dataclass
class Context:
    bin_dir: str
    model_dir: str
    passages: pathlib.Path
    work: pathlib.Path
    quick: bool
    rounds: int
    roofs: measure.Roofs
    table: Table

    def binary(self, path: str) -> str:
        return os.path.join(self.bin_dir, path)


def times(value: float) -> str:
    return f"{value:.2f}x"


class EncoderRows:
    """The encoder in one precision of ours, against some peers."""

    def __init__(self, context: Context, ours: str, judged: list) -> None:
        """`judged` are the peers whose fidelity is printed beside ours."""
        self.context, self.ours = context, ours
        self.peers = encoder_benchmark.EncoderPeers(context.model_dir, context.passages, context.work, quick=context.quick)
        self.binary = context.binary("encoder/encoder_benchmark")
        counts = (200, 50) if context.quick else (1200, 200)
        self.fidelity = self.peers.fidelity(self.binary, [ours], judged, *counts)
        for name, value in self.fidelity.items():
            print(f"fidelity over {counts[0]} passages, {engines.LABELS.get(name, name)}: {engines.fidelity_text(value)}", flush=True)

    def run(self, shape: str, names: list) -> tuple:
        """What was measured, and its part of the roof."""
        result = self.peers.compare(self.binary, self.ours, shape, names, self.context.rounds)
        roof = self.context.roofs.of(encoder_benchmark.PRECISIONS[result.precision])
        return result, result.gflop * 1e9 / result.compared.ours_s / roof if roof else 0.0

    def means(self, what: str, shapes: list, goals: dict) -> None:
        """A row for each peer of `goals`: the geometric means over the shapes, and each shape in the words."""
        results = [self.run(shape, list(goals)) for shape in shapes]
        mean = encoder_benchmark.geometric_mean
        for name, goal in goals.items():
            sides = [result.compared.peers[name] for result, _ in results]
            each = ", ".join(f"{shape} {times(side.median())}" for shape, side in zip(shapes, sides))
            modes = ", ".join(dict.fromkeys(result.modes[name] for result, _ in results))
            fidelity = engines.fidelity_text(self.fidelity[f"ours {self.ours}"])
            if name in self.fidelity:
                fidelity += "; its " + engines.fidelity_text(self.fidelity[name])
            self.context.table.add(Row(
                what=f"{what} ({results[0][0].precision}): {each}", against=f"{engines.LABELS[name]} ({modes})", median=times(mean([s.median() for s in sides])),
                p10=times(mean([s.p10() for s in sides])), roof=", ".join(f"{100 * part:.0f} %" for _, part in results), fidelity=fidelity,
                same=", ".join(f"{result.compared.same:.2f}" for result, _ in results), goal=goal,
            ))  # fmt: skip

    def mixed(self, names: list) -> None:
        """A row against the fastest of the peers."""
        result, part = self.run(encoder_benchmark.MIXED, names)
        best = result.compared.best()
        side = result.compared.peers[best]
        self.context.table.add(Row(
            what=f"encoder ({result.precision}), mixed lengths 8-256 (mean 40), packed", against=f"{engines.LABELS[best]}, {result.modes[best]}, sorted",
            median=times(side.median()), p10=times(side.p10()), roof=f"{100 * part:.0f} %", same=f"{result.compared.same:.2f}", goal=">= 1.35",
        ))  # fmt: skip


def half_rows(context: Context) -> None:
    rows = EncoderRows(context, "auto", ["openvino-half", "torch-half"])
    goals = {"openvino-half": ">= 1.08", "torch-half": ">= 1.35", "onnxruntime-fp32": ">= 2.2", "openvino-fp32": "-"}
    rows.means("encoder in 16 bits, batches", encoder_benchmark.INT8_MEAN_SHAPES, goals)
    rows.mixed(list(goals))


def int8_rows(context: Context) -> None:
    rows = EncoderRows(context, "int8", ["openvino-int8", "onnxruntime-int8"])
    goals = {"openvino-int8": ">= 1.2, 32x32 >= 1.15", "onnxruntime-int8": ">= 1.8"}
    rows.means("encoder in int8, batches", encoder_benchmark.INT8_MEAN_SHAPES, goals)
    rows.means("encoder in int8, one short sequence", encoder_benchmark.SHORT_SHAPES, {"openvino-int8": ">= 1.6, 1.35"})
    rows.mixed(list(goals))


def tokenizer_rows(context: Context) -> None:
    import tokenizer_benchmark
    import tokenizers

    binary = context.binary("encoder/tokenizer_benchmark")
    measured = tokenizer_benchmark.Measured(binary, context.model_dir, context.passages, 1000 if context.quick else 4000)
    compared = measured.compare(context.rounds)
    side = compared.peers[compared.best()]
    context.table.add(Row(
        what=f"tokenizer, {len(measured.texts)} texts, {measured.tokens / compared.ours_s / 1e6:.1f} M tokens/s",
        against=f"tokenizers {tokenizers.__version__}", median=times(side.median()), p10=times(side.p10()), fidelity="identical ids",
        same=f"{compared.same:.2f}", goal=">= 5",
    ))  # fmt: skip


def search_rows(context: Context) -> None:
    import real_vectors
    import search_benchmark

    row_count = 50_000 if context.quick else ROWS
    rows, queries = real_vectors.make(context.model_dir, context.passages, context.work, row_count, 1000)
    cases = [("bfloat16", [8, 32, 64, 256], ">= 1.8"), ("bfloat16+int8", [8, 32, 64, 256], ">= 3"), ("bfloat16+int8", [1], ">= 3")]
    with search_benchmark.Measured(context.binary("index/certified_scan_benchmark"), rows, queries) as measured:
        for mode, counts, goal in cases:
            for count in counts:
                compared = measured.compare(mode, count, context.rounds)
                best = compared.best()
                side = compared.peers[best]
                roofs = context.roofs.measure()
                part = search_benchmark.roof_seconds(roofs, mode, measured.rows, measured.dim, count) / compared.ours_s
                context.table.add(Row(
                    what=f"exact search, {mode}, {measured.rows} x {measured.dim}, {count} queries", against=best, median=times(side.median()),
                    p10=times(side.p10()), roof=f"{100 * part:.0f} %", fidelity=f"top-10 overlap {measured.overlap(mode, min(count, 64)):.4f}",
                    same=f"{compared.same:.2f}", goal=goal,
                ))  # fmt: skip


def softmax_rows(context: Context) -> None:
    row_count = 200_000 if context.quick else 1_000_000
    command = [context.binary("index/softmax_scan_benchmark"), "--rows", str(row_count), "--queries", "32", "--rounds", str(context.rounds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    ratio = r".*? = ([\d.]+)x \(p90 ([\d.]+)x\)"
    alone, alone_p90, mean, mean_p90, same = re.search(f"log Z{ratio}  with the mean{ratio}.*exact again.*? = ([\\d.]+)x", output).groups()
    for what, value, p90, goal in (("log Z", alone, alone_p90, "<= 1.25"), ("log Z with E[z]", mean, mean_p90, "<= 2.4")):
        context.table.add(Row(what=f"{what}, {row_count} x 384 float16, 32 queries: its time by exact search's", against="our exact search",
                              median=f"{value}x", p10=f"p90 {p90}x", same=same, goal=goal))  # fmt: skip


def server_rows(context: Context) -> None:
    import server_benchmark

    passages, rounds, seconds = (2000, 1, 3) if context.quick else (20_000, 5, 10)
    result = server_benchmark.measure_server(context.bin_dir, context.model_dir, context.passages, passages, rounds, seconds, 32, "auto", [])
    judged = f"; {result.not_judged()}" if result.not_judged() else ""
    context.table.add(Row(
        what=f"server at saturation, {result.per_cpu_second:.0f} searches per CPU second of the server, {passages} passages",
        against="1 / (t_tokenize + t_encode + t_search)", median=f"{100 * result.efficiency:.0f} %", p10=f"{100 * result.efficiency_p10:.0f} %",
        goal=">= 85 %",
    ))  # fmt: skip
    context.table.add(Row(what=f"server at 70 % of saturation: p99 {1e3 * result.loaded_p99:.1f} ms{judged}",
                          against=f"its median, {1e3 * result.loaded_p50:.1f} ms", median=times(result.tail), goal="<= 5"))  # fmt: skip
    context.table.add(Row(what=f"one short search on an idle server, {1e3 * result.idle_p50:.2f} ms: beside encoding and searching{judged}",
                          against="-", median=f"{1e3 * result.idle_rest:.2f} ms", goal="<= 1 ms"))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help="bazel-bin")
    parser.add_argument("model_dir")
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="3 rounds and less of everything: for looking, not for reporting")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path.home() / ".cache/loci/peers", help="keeps converted models and vectors")
    args = parser.parse_args()
    sections = {"half": half_rows, "int8": int8_rows, "tokenizer": tokenizer_rows, "search": search_rows, "softmax": softmax_rows, "server": server_rows}
    if unknown := set(args.only.split(",")) - set(sections):
        parser.error(f"there is no section {unknown.pop()!r}")
    roofs = measure.Roofs(os.path.join(args.bin_dir, "tests/peers/roof_benchmark"))
    roofs.measure()
    table = Table()
    context = Context(args.bin_dir, args.model_dir, args.passages, args.work, args.quick, 3 if args.quick else args.rounds, roofs, table)
    for name in args.only.split(","):
        sections[name](context)
    with open("/proc/cpuinfo") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    print(f"\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {cpu}; {roofs.text()}; others used {measure.other_load(1.0):.1f} cores at the end\n")
    print(table.markdown())


if __name__ == "__main__":
    main()
