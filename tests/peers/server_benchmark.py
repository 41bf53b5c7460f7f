#!/usr/bin/env python3
"""The server beside the parts that it is made of, in turns in one run: `loci bench --saturation`, and tokenizer, encoder and search alone.

    bazel build //server:loci_server //clients/cli:loci //encoder:tokenizer_benchmark //encoder:encoder_benchmark //index:filter_benchmark
    VENV/bin/python tests/peers/server_benchmark.py bazel-bin models/all-MiniLM-L6-v2 PASSAGES.jsonl.gz [--rows 20000] [--quick]

A store of pieces of the passages' text is built and searched by other pieces, for the best 10, exactly, one query a request. Each round runs the
parts by one thread (CPU time: tokenizing the same queries, encoding them in batches as large as the server's, exact searches of as many
float32 vectors, one at a time and --concurrency in one pass), then the three stages of the bench, then the parts again. Prints the medians over
the rounds of:

- idle: one short search through gRPC, and how much of its latency is neither encoding nor searching (goal: at most 1 ms);
- saturation: searches per CPU second of the server against 1 / (t_tokenize + t_encode + t_search) of the parts (goal: at least 85 %), and the same
  with the search's time in one pass, which is what a server could at most reach that searched all that is in flight together;
- 70 % of saturation, at random times: p99 against the median (goal: at most 5 times). Not judged where others used the machine, or where requests that
  were due were never sent: their latencies are missing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics
import struct
import subprocess
import tempfile

import encoder_benchmark
import measure
import real_vectors

QUERIES = 1000
MAX_BATCH_TOKENS = 1024  # The server's default.
# Above them latencies are not judged.
MAX_OTHER_LOAD = 0.2  # Cores.
MAX_UNSENT = 0.001  # Of the requests that were due.


class Server:
    """A server on a port of loopback with a folder of its own; use as a context."""

    def __init__(self, binary: str, model_dir: str, folder: str, flags: list) -> None:
        self.log = open(os.path.join(folder, "server.log"), "w")
        self.process = subprocess.Popen(
            [binary, "--data-dir", os.path.join(folder, "data"), "--model", model_dir, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", *flags],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        self.address = ""
        for line in self.process.stdout:
            if match := re.fullmatch(r"listening on (\S+)\n", line):
                self.address = match[1]
                break
        if not self.address:
            raise RuntimeError("the server did not start: " + pathlib.Path(self.log.name).read_text()[-2000:])

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Parts:
    """Seconds of CPU time that one query takes in each part; use as a context."""

    def __init__(self, bin_dir: str, model_dir: str, folder: str, queries: list, row_count: int, precision: str, together: int) -> None:
        texts = os.path.join(folder, "texts")
        with open(texts, "wb") as out:
            for query in queries:
                utf8 = query.encode("utf-8")
                out.write(struct.pack("<I", len(utf8)) + utf8)
        self.count = len(queries)
        self.together = min(together, 64)  # All that the benchmark has.
        self.tokenizer = measure.Child([os.path.join(bin_dir, "encoder/tokenizer_benchmark"), model_dir, texts])
        encodings = encoder_benchmark.tokenizer(model_dir).encode_batch_fast(queries)
        ids = [encoder_benchmark.Texts.cut(encoding.ids, 256) for encoding in encodings]
        self.encoder = encoder_benchmark.Ours(os.path.join(bin_dir, "encoder/encoder_benchmark"), model_dir, ids, precision, MAX_BATCH_TOKENS, 1, folder)
        rows = os.path.join(folder, "rows")
        self.search = measure.Child([os.path.join(bin_dir, "index/filter_benchmark"), rows, row_count, 384])
        self.search.line()

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_) -> None:
        for child in (self.tokenizer, self.encoder, self.search):
            child.__exit__(None, None, None)

    def measure(self) -> tuple:
        """t_tokenize, t_encode, t_search, and the last where many are searched together."""
        tokenize = int(self.tokenizer.ask_line("run").split()[0]) / 1e9 / self.count
        encode = self.encoder.turn() / self.count
        search = statistics.median(self.search.ask("run 1 10")["cpu_s"] for _ in range(20))
        together = statistics.median(self.search.ask(f"run {self.together} 10")["cpu_s"] for _ in range(20)) / self.together
        return tokenize, encode, search, together


@dataclasses.dataclass
class Result:
    """Medians over the rounds, seconds and requests."""

    idle_p50: float
    idle_encode: float
    idle_search: float
    idle_rest: float
    per_cpu_second: float
    parts: tuple
    efficiency: float
    efficiency_p10: float
    efficiency_together: float
    tail: float  # p99 by p50 at 70 % of saturation.
    loaded_p50: float
    loaded_p99: float
    other_load: float
    unsent: float  # Of the requests that were due at 70 %, the share that was never sent; the most of a round.

    def not_judged(self) -> str:
        """Why latencies say nothing here, or the empty string."""
        if self.other_load > MAX_OTHER_LOAD:
            return f"not judged, others used {self.other_load:.1f} cores"
        if self.unsent > MAX_UNSENT:
            return f"not judged, {100 * self.unsent:.1f} % of what was due was never sent"
        return ""


def unsent_share(stage: dict) -> float:
    unsent = stage.get("unsent", 0)
    return unsent / max(1, unsent + stage["requests"])


def measure_server(bin_dir: str, model_dir: str, passages: pathlib.Path, passage_count: int, rounds: int, seconds: int, concurrency: int,
                   precision: str, flags: list) -> Result:  # fmt: skip
    pieces = real_vectors.pieces(passages, passage_count + QUERIES)
    queries, rows = pieces[:QUERIES], pieces[QUERIES:]
    cli = os.path.join(bin_dir, "clients/cli/loci")
    stages, parts, efficiencies, together, load = [], [], [], [], 0.0
    with tempfile.TemporaryDirectory(prefix="loci_server_") as folder:
        with open(os.path.join(folder, "rows.jsonl"), "w") as file:
            file.writelines(json.dumps({"id": f"p{i}", "text": text}) + "\n" for i, text in enumerate(rows))
        with open(os.path.join(folder, "queries.jsonl"), "w") as file:
            file.writelines(json.dumps({"id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(queries))
        with Server(os.path.join(bin_dir, "server/loci_server"), model_dir, folder, flags) as server:
            run = [cli, "--server", server.address]
            subprocess.run([*run, "ingest", "s", file.name.replace("queries", "rows"), "--vector-type", "float32"], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            bench = [*run, "bench", "s", "--queries", file.name, "--saturation", "--concurrency", str(concurrency), "--duration", f"{seconds}s",
                     "--server-pid", str(server.process.pid), "-o", "json"]  # fmt: skip
            with Parts(bin_dir, model_dir, folder, queries, len(rows), precision, concurrency) as alone:
                alone.measure()
                for _ in range(rounds):
                    load = max(load, measure.other_load(0.5))
                    before = alone.measure()
                    output = subprocess.run(bench, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
                    after = alone.measure()
                    stages.append(json.loads(output))
                    parts.append(tuple((a + b) / 2 for a, b in zip(before, after)))
                    per_cpu_second = stages[-1]["stages"][1]["succeeded_per_server_cpu_s"]
                    efficiencies.append(per_cpu_second * sum(parts[-1][:3]))
                    together.append(per_cpu_second * (sum(parts[-1][:2]) + parts[-1][3]))

    def median(stage: int, key: str) -> float:
        return statistics.median(s["stages"][stage][key] for s in stages)

    return Result(
        idle_p50=1e-6 * median(0, "p50_us"), idle_encode=1e-6 * median(0, "encode_p50_us"), idle_search=1e-6 * median(0, "search_p50_us"),
        idle_rest=1e-6 * median(0, "rest_p50_us"), per_cpu_second=median(1, "succeeded_per_server_cpu_s"),
        parts=tuple(statistics.median(p[i] for p in parts) for i in range(4)), efficiency=statistics.median(efficiencies),
        efficiency_p10=measure.percentile(efficiencies, 0.1), efficiency_together=statistics.median(together),
        tail=statistics.median(s["p99_by_p50"] for s in stages),
        loaded_p50=1e-6 * median(2, "p50_us"), loaded_p99=1e-6 * median(2, "p99_us"), other_load=load,
        unsent=max(unsent_share(s["stages"][2]) for s in stages),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help="bazel-bin")
    parser.add_argument("model_dir")
    parser.add_argument("passages", type=pathlib.Path)
    parser.add_argument("--rows", dest="passage_count", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10, help="of each stage")
    parser.add_argument("--precision", default="auto", choices=["auto", *encoder_benchmark.PRECISIONS], help="the server's")
    parser.add_argument("--server-flag", action="append", default=[], help="given to the server as it is; once for each")
    parser.add_argument("--quick", action="store_true", help="2,000 passages, 1 round of 3 s")
    args = parser.parse_args()
    if args.quick:
        args.passage_count, args.rounds, args.seconds = 2000, 1, 3
    result = measure_server(args.bin_dir, args.model_dir, args.passages, args.passage_count, args.rounds, args.seconds, args.concurrency,
                            args.precision, args.server_flag)  # fmt: skip
    print(f"idle: {1e3 * result.idle_p50:.2f} ms = encode {1e3 * result.idle_encode:.2f} + search {1e3 * result.idle_search:.2f} + "
          f"the rest {1e3 * result.idle_rest:.2f} ms (goal <= 1)")  # fmt: skip
    print(f"saturated: {result.per_cpu_second:.1f} searches per CPU second of the server; parts alone: tokenize {1e3 * result.parts[0]:.3f}, "
          f"encode {1e3 * result.parts[1]:.3f}, search {1e3 * result.parts[2]:.3f} ms, {1e3 * result.parts[3]:.3f} together; "
          f"{100 * result.efficiency:.1f} % of what they would allow, p10 {100 * result.efficiency_p10:.1f} % (goal >= 85), "
          f"{100 * result.efficiency_together:.1f} % of what searching together would")  # fmt: skip
    print(f"at 70 %: p50 {1e3 * result.loaded_p50:.1f} ms, p99 {1e3 * result.loaded_p99:.1f} ms: {result.tail:.2f} times (goal <= 5)")
    if result.not_judged():
        print("latencies: " + result.not_judged())


if __name__ == "__main__":
    main()
