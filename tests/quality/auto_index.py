"""Whether an index that is chosen by measuring meets its recall target on queries that it was not chosen by.

Ingests a corpus with the index "auto" for each target, then asks the questions of a file (or, of a synthetic corpus, fresh vectors), and
compares the first 10 hits with those of exact search of the same generation. Prints for each: target, recall reached, the index, and how much
faster its searches are than exact ones in the same run (medians of the server's own search times, in turns). Fails where a target is missed.

  bazel test //tests/quality:auto_index --test_output=all
  LOCI_SERVER_BINARY=bazel-bin/server/loci_server PYTHONPATH=tests/integration python3 tests/quality/auto_index.py \\
      --passages passages.jsonl.gz --questions nq_open/dev.jsonl.gz --data-dir /tmp/auto
  ... tests/quality/auto_index.py --synthetic 1000000
"""

from __future__ import annotations

import argparse
import array
import gzip
import itertools
import json
import math
import operator
import pathlib
import random
import statistics
import struct
import sys
import time
from typing import Any, Iterator

from loci_server import ReflectionClient, ServerProcess

DIM = 384
BATCH = 1_000
CLUSTERS = 2_000
NOISE = 0.85  # Of each of two parts: together 1.2 times what lies between centres.
NOISE_ROWS = 20_000
DAY_S = 24 * 3600


def lines(path: str) -> Iterator[dict[str, Any]]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")
    with opened as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def passage_batches(path: str) -> Iterator[dict[str, Any]]:
    batch = []
    for line in lines(path):
        batch.append({"id": str(line["id"]), "title": line.get("title", ""), "text": line["text"]})
        if len(batch) == BATCH:
            yield {"passages": batch}
            batch = []
    if batch:
        yield {"passages": batch}


class Clusters:
    """Vectors of unit length around centres, of clusters of different sizes; most of what differs lies in some of the dimensions, as of text."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        gauss = self.random.gauss
        self.scales = [1 / math.sqrt(1 + d / 16) for d in range(DIM)]
        self.centres = [[gauss(0, 1) * scale for scale in self.scales] for _ in range(CLUSTERS)]
        self.weights = list(itertools.accumulate(1 / math.sqrt(1 + i) for i in range(CLUSTERS)))
        # Noise is cut out of it anywhere, but at the same place of the scales.
        self.noise = array.array("f", (gauss(0, NOISE) * self.scales[i % DIM] for i in range(NOISE_ROWS * DIM)))

    def draw(self, count: int, seed: int) -> Iterator[bytes]:
        draw = random.Random(seed)
        for centre in draw.choices(self.centres, cum_weights=self.weights, k=count):
            one, two = (DIM * draw.randrange(NOISE_ROWS) for _ in range(2))
            vector = [c + n + m for c, n, m in zip(centre, self.noise[one:one + DIM], self.noise[two:two + DIM])]
            length = math.sqrt(math.sumprod(vector, vector) if hasattr(math, "sumprod") else sum(map(operator.mul, vector, vector)))
            yield struct.pack(f"<{DIM}f", *(value / length for value in vector))


def vector_batches(client: ReflectionClient, clusters: Clusters, count: int) -> Iterator[dict[str, Any]]:
    float32 = client.value("VectorType", "VECTOR_TYPE_FLOAT32")
    for first in range(0, count, BATCH):
        rows = min(BATCH, count - first)
        data = b"".join(clusters.draw(rows, seed=1_000 + first))
        passages = [{"id": f"p{i:08d}", "text": f"passage {i}"} for i in range(first, first + rows)]
        yield {"passages": passages, "vectors": {"rows": rows, "cols": DIM, "type": float32, "data": data}}


def recall_and_speed(client: ReflectionClient, store: str, queries: list[dict[str, Any]], options: dict[str, Any]) -> tuple[float, float, float]:
    """Mean recall at 10, and the medians of search times with `options` and of exact ones, in microseconds."""
    found, approximate_us, exact_us = [], [], []
    for query in queries:
        exact = client.call("RetrievalService.Search", store=store, top_k=10, queries=[query], options={"exact": True})
        reply = client.call("RetrievalService.Search", store=store, top_k=10, queries=[query], options=options)
        if not exact.exact or exact.generation != reply.generation:
            sys.exit("the searches are not of one generation")
        hits = exact.results[0].hits
        found.append(sum(hit.score >= hits[-1].score for hit in reply.results[0].hits) / len(hits))
        approximate_us.append(reply.timings.search_us)
        exact_us.append(exact.timings.search_us)
    return statistics.fmean(found), statistics.median(approximate_us), statistics.median(exact_us)


def report(client: ReflectionClient, store: str, target: float, queries: list[dict[str, Any]]) -> bool:
    generation = client.call("AdminService.ListGenerations", store=store).generations[-1]
    chosen = [point for point in generation.ladder if point.chosen]
    how = " ".join(f"{name}={getattr(chosen[0], name)}" for name in ("nprobe", "ef_search", "rescore_factor") if getattr(chosen[0], name)) if chosen else ""
    recall, default_us, exact_us = recall_and_speed(client, store, queries, {})
    print(f"target {target:.3f}: reached {recall:.4f} on {len(queries)} queries; {generation.index} {how}; "
          f"search {default_us / 1000:.2f} ms, exact {exact_us / 1000:.2f} ms, {exact_us / max(default_us, 1):.1f}x as fast "
          f"(measured when built: {generation.recall_at_10:.4f} on {generation.recall_query_count} queries; {generation.tuning.reason})", flush=True)
    met = recall >= target
    for asked in (0.8, 0.9, 0.99):
        asked_recall, asked_us, _ = recall_and_speed(client, store, queries[:200], {"recall_target": asked})
        print(f"  a request with recall_target {asked}: {asked_recall:.4f}, {asked_us / 1000:.2f} ms", flush=True)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", help="JSON lines of id, title, text")
    parser.add_argument("--questions", help="JSON lines of question")
    parser.add_argument("--synthetic", type=int, default=200_000, help="vectors, where there are no --passages")
    parser.add_argument("--targets", default="0.9,0.95,0.99")
    parser.add_argument("--memory", default="", help="of an index, as 2GiB")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--data-dir", help="kept; what was encoded there is not encoded again")
    arguments = parser.parse_args()

    if arguments.data_dir:
        pathlib.Path(arguments.data_dir).mkdir(parents=True, exist_ok=True)
    server = ServerProcess(arguments.data_dir)
    client = ReflectionClient(server.address)
    encoder = client.call("AdminService.GetServerInfo").encoders[0]
    store, header = "synthetic", {"encoder_fingerprint": encoder.fingerprint}
    clusters = Clusters()
    if arguments.passages:
        store, header = "passages", {}
        questions = [line["question"] for line in lines(arguments.questions)]
        step = max(1, len(questions) // arguments.queries)
        queries = [{"text": question} for question in questions[::step][:arguments.queries]]
    else:
        if encoder.dim != DIM:
            sys.exit(f"the encoder has dimension {encoder.dim}, this needs {DIM}")
        float32 = client.value("VectorType", "VECTOR_TYPE_FLOAT32")
        queries = [{"vector": {"rows": 1, "cols": DIM, "type": float32, "data": vector}}
                   for vector in clusters.draw(arguments.queries, seed=7)]
    met = True
    for target in (float(text) for text in arguments.targets.split(",")):
        index = f"auto:recall={target}" + (f",memory={arguments.memory}" if arguments.memory else "")
        batches = passage_batches(arguments.passages) if arguments.passages else vector_batches(client, clusters, arguments.synthetic)
        start = time.monotonic()
        response = client.ingest({"store": store, "index": {"factory": index}, **header}, batches, timeout=DAY_S)
        print(f"{response.passage_count} passages with {index} in {time.monotonic() - start:.0f} s, {response.reused_count} not encoded again", flush=True)
        met = report(client, store, target, queries) and met
    client.close()
    if server.stop() != 0:
        sys.exit("the server did not end well")
    if not met:
        sys.exit("a target was missed")


if __name__ == "__main__":
    main()
