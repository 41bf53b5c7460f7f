"""How long small searches take while large requests are served: training jobs' Retrieve, or searches of many queries.

  LOCI_SERVER_BINARY=bazel-bin/server/loci_server PYTHONPATH=tests/integration python3 tests/load/beside_large.py --kind train

In the repository's folder, with the server built and the model that deploy/setup.sh fetches ($LOCI_MODEL_DIR names another); python3 is one that has
grpcio, as ~/.cache/loci/python-test/bin/python is.

Sends --count large requests at once and, until the last of them is answered, one small search after another. Prints what became of each kind, how long
the large ones took in all, and the small searches' median and longest latency as the client saw them.
"""

from __future__ import annotations

import argparse
import collections
import random
import statistics
import struct
import threading
import time
from typing import Any

import grpc
from loci_server import ReflectionClient, ServerProcess
from synthetic_corpus import DIM, make_vectors, vector_batches


def outcome(call: Any) -> tuple[str, float]:
    """The status of a call, and its seconds."""
    begin = time.monotonic()
    try:
        call()
        code = "OK"
    except grpc.RpcError as error:
        code = error.code().name
    return code, time.monotonic() - begin


def counts(outcomes: list[tuple[str, float]]) -> str:
    return ", ".join(f"{n} {code}" for code, n in collections.Counter(code for code, _ in outcomes).items())


def measure(options: argparse.Namespace, client: ReflectionClient, address: str) -> None:
    client.ingest({"store": "s", "encoder_fingerprint": client.call("AdminService.GetServerInfo").encoders[0].fingerprint},
                  vector_batches(client, options.rows, words=8), timeout=600)
    float32 = client.value("VectorType", "VECTOR_TYPE_FLOAT32")
    vectors = random.Random(3).choices(make_vectors(), k=options.queries)
    queries = [{"vector": {"rows": 1, "cols": DIM, "type": float32, "data": vector}} for vector in vectors]
    if options.kind == "train":
        session = client.call("TrainingService.OpenSession", store="s").session_id
        numbers = struct.unpack(f"<{len(vectors) * DIM}f", b"".join(vectors))
        element, kind = ("d", "VECTOR_TYPE_FLOAT64") if options.float64 else ("f", "VECTOR_TYPE_FLOAT32")
        matrix = {"rows": len(vectors), "cols": DIM, "type": client.value("VectorType", kind), "data": struct.pack(f"<{len(numbers)}{element}", *numbers)}
        large = ("TrainingService.Retrieve", {"session_id": session, "query_vectors": matrix, "top_k": 8})
    else:
        large = ("RetrievalService.Search", {"store": "s", "queries": queries, "top_k": 8})
    beside = ReflectionClient(address, like=client)  # A connection of its own, as another client has.

    def small(i: int) -> None:
        beside.call("RetrievalService.Search", store="s", queries=[queries[i % len(queries)]], top_k=3, timeout=options.deadline_ms / 1e3)

    small(0)
    outcomes: list[tuple[str, float]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(outcome(lambda: client.call(large[0], timeout=600, **large[1]))))
               for _ in range(options.count)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    searches = []
    while any(thread.is_alive() for thread in threads):
        searches.append(outcome(lambda: small(len(searches))))
        time.sleep(options.pause_ms / 1e3)
    seconds = time.monotonic() - begin
    latencies = [1e3 * taken for _, taken in searches] or [float("nan")]
    print(f"{options.count} of {options.queries} queries over {options.rows} rows ({options.kind}): {counts(outcomes)} within {seconds:.1f} s\n"
          f"small searches beside them: {counts(searches)}; median {statistics.median(latencies):.0f} ms, longest {max(latencies):.0f} ms", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["train", "search"], default="train")
    parser.add_argument("--float64", action="store_true", help="a training job's queries; several times the work")
    parser.add_argument("--count", type=int, default=16, help="of large requests")
    parser.add_argument("--queries", type=int, default=256, help="of each")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--deadline-ms", type=int, default=1000, help="of a small search")
    parser.add_argument("--pause-ms", type=int, default=100, help="between small searches")
    parsed = parser.parse_args()
    server = ServerProcess()
    try:
        everything = ReflectionClient(server.address)
        measure(parsed, everything, server.address)
        everything.close()
    finally:
        server.stop()
