"""Ingests many synthetic passages with vectors that come along, then some as texts: both rates, and the server's memory.

Vectors are clustered: a centre and noise, of unit length. Memory is RssAnon of /proc/PID/status, sampled: what is mapped from files is
left out. Fails where the peak is above --limit-mib.

  bazel test //tests/load:ingest_million --test_output=all
  LOCI_SERVER_BINARY=bazel-bin/server/loci_server PYTHONPATH=tests/integration python3 tests/load/ingest_million.py --passages 100000
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
import threading
import time
import urllib.request
from typing import Any, Iterator

from loci_server import ReflectionClient, ServerProcess
from synthetic_corpus import DIM, texts, vector_batches


class MemorySampler(threading.Thread):
    """Peaks of the server's memory, by phase."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.path = f"/proc/{pid}/status"
        self.peak_anon_mib = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.peak_anon_mib = max(self.peak_anon_mib, self.read("RssAnon"))

    def read(self, name: str) -> float:
        with open(self.path, encoding="ascii") as file:
            match = re.search(rf"^{name}:\s+(\d+) kB$", file.read(), re.MULTILINE)
        return int(match[1]) / 1024 if match else 0.0


def text_batches(count: int) -> Iterator[Any]:
    text = texts(count, 2)
    for first in range(0, count, 200):
        yield {"passages": [{"id": f"t{i:08d}", "text": next(text)} for i in range(first, min(first + 200, count))]}


def encoder_seconds(server: ServerProcess) -> float:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as reply:
        return sum(float(line.rsplit(" ", 1)[1]) for line in reply.read().decode().splitlines()
                   if line.startswith("loci_batcher_encode_seconds_sum"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--index", default="exact")
    parser.add_argument("--limit-mib", type=float, default=1536)
    parser.add_argument("--data-dir")
    arguments = parser.parse_args()

    server = ServerProcess(arguments.data_dir)
    client = ReflectionClient(server.address)
    encoder = client.call("AdminService.GetServerInfo").encoders[0]
    if encoder.dim != DIM:
        sys.exit(f"the encoder has dimension {encoder.dim}, this needs {DIM}")
    memory = MemorySampler(server.process.pid)
    idle_mib = memory.read("RssAnon")
    memory.start()

    def ingest(header: dict[str, Any], batches: Iterator[Any]) -> tuple[Any, float]:
        memory.peak_anon_mib = 0.0
        start = time.monotonic()
        response = client.ingest(header, batches, timeout=24 * 3600)
        return response, time.monotonic() - start

    header = {"store": "million", "encoder_fingerprint": encoder.fingerprint, "index": {"factory": arguments.index}}
    response, seconds = ingest(header, vector_batches(client, arguments.passages))
    if response.passage_count != arguments.passages or not response.done:
        sys.exit(f"the ingest answered {response}")
    peak_mib = memory.peak_anon_mib
    print(f"vectors: {arguments.passages} passages in {seconds:.1f} s, {arguments.passages / seconds:.0f} passages/s (the client's work included); "
          f"RssAnon {idle_mib:.0f} MiB idle, {peak_mib:.0f} MiB at its peak, VmHWM {memory.read('VmHWM'):.0f} MiB", flush=True)

    if arguments.texts > 0:
        busy = -encoder_seconds(server)
        response, seconds = ingest({"store": "texts"}, text_batches(arguments.texts))
        busy += encoder_seconds(server)
        print(f"texts: {arguments.texts} passages in {seconds:.1f} s, {arguments.texts / seconds:.0f} passages/s; "
              f"the encoder is busy for {100 * busy / seconds:.0f} % of it; RssAnon {memory.peak_anon_mib:.0f} MiB at its peak", flush=True)
        response, seconds = ingest({"store": "texts"}, text_batches(arguments.texts))
        print(f"texts again: {response.reused_count} of {arguments.texts} taken over in {seconds:.1f} s, {arguments.texts / seconds:.0f} passages/s",
              flush=True)
        peak_mib = max(peak_mib, memory.peak_anon_mib)

    # What serves must answer.
    query = struct.pack(f"<{DIM}f", 1, *[0] * (DIM - 1))
    start = time.monotonic()
    client.call("RetrievalService.Search", store="million", top_k=10, queries=[
        {"vector": {"rows": 1, "cols": DIM, "type": client.value("VectorType", "VECTOR_TYPE_FLOAT32"), "data": query}}])
    print(f"a search of {arguments.passages} takes {1e3 * (time.monotonic() - start):.0f} ms")
    memory.ended.set()
    memory.join()
    client.close()
    if server.stop() != 0:
        sys.exit("the server did not end well")
    if peak_mib > arguments.limit_mib:
        sys.exit(f"RssAnon reached {peak_mib:.0f} MiB, the limit is {arguments.limit_mib:.0f} MiB")


if __name__ == "__main__":
    main()
