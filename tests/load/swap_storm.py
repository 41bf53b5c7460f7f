"""Swaps two generations once a second under half load, and prints what that adds to the latency of searches, and what stays in memory.

Both have as many passages as the quickstart's corpus, with synthetic vectors. The load is an open loop at half the measured saturation:
four vector queries to one of text. Phases without and with swaps alternate. Beside the load a client looks at the replies: every hit must be of
the generation that its reply names. Then further activations, to --swaps in all, and what is resident is compared with what was after the first.

  LOCI_SERVER_BINARY=bazel-bin/server/loci_server LOCI_LOAD_GENERATOR=bazel-bin/tests/load/load_generator \\
  PYTHONPATH=tests/integration python3 tests/load/swap_storm.py --seconds 60
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from typing import Any

from loci_server import ReflectionClient, ServerProcess
from synthetic_corpus import DIM, WORDS, make_vectors, vector_batches

STORE = "storm"


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def resident_mib(pid: int) -> dict[str, float]:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return {name: int(kib) / 1024 for name, kib in re.findall(r"(VmRSS|RssAnon|RssFile):\s+(\d+) kB", file.read())}


class Storm:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.directory = tempfile.TemporaryDirectory(prefix="loci_storm_")
        self.server = ServerProcess()
        self.client = ReflectionClient(self.server.address)
        fingerprint = self.client.call("AdminService.GetServerInfo").encoders[0].fingerprint
        self.generations = {}
        for label in ("red", "blue"):
            header = {"store": STORE, "encoder_fingerprint": fingerprint, "index": {"factory": options.index}}
            reply = self.client.ingest(header, vector_batches(self.client, options.passages, label), timeout=3600)
            self.generations[reply.generation] = label
        self.order = list(self.generations)
        self.swaps = 0
        self.swap_ms: list[float] = []
        self.failures: list[str] = []
        self.checked = 0
        self.requests = self._requests()

    def _requests(self) -> list[Any]:
        rng = random.Random(3)
        float32 = self.client.value("VectorType", "VECTOR_TYPE_FLOAT32")
        requests = []
        for i in range(500):
            if i % 5 == 4:
                query = {"text": " ".join(rng.choices(WORDS, k=8))}
            else:
                vector = struct.unpack(f"<{DIM}f", rng.choice(make_vectors()))
                query = {"vector": {"rows": 1, "cols": DIM, "type": float32,
                                    "data": struct.pack(f"<{DIM}f", *(value + rng.gauss(0, 0.02) for value in vector))}}
            requests.append(self.client.message("SearchRequest", store=STORE, top_k=10, queries=[query]))
        with open(os.path.join(self.directory.name, "requests"), "wb") as file:
            for request in requests:
                data = request.SerializeToString()
                file.write(struct.pack("<I", len(data)) + data)
        return requests

    def load(self, phases: str) -> tuple[list[dict[str, Any]], list[list[float]]]:
        path = os.path.join(self.directory.name, "latencies")
        output = subprocess.run(
            [os.environ["LOCI_LOAD_GENERATOR"], "--server", self.server.address, "--requests", os.path.join(self.directory.name, "requests"),
             "--phases", phases, "--deadline-ms", str(self.options.deadline_ms), "--latencies", path],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        results = json.loads(output)["phases"]
        latencies: list[list[float]] = [[] for _ in results]
        with open(path, encoding="ascii") as file:
            for line in file:
                phase, latency_ms = line.split()
                latencies[int(phase)].append(float(latency_ms))
        for result in results:
            self.failures += [f"{count} requests ended with {code}" for code, count in result["codes"].items() if code != "OK"]
            if result["not_sent"]:
                self.failures.append(f"{result['not_sent']} requests were not sent")
        return results, latencies

    def swap(self) -> None:
        start = time.monotonic()
        try:
            self.client.call("AdminService.ActivateGeneration", store=STORE, generation=self.order[self.swaps % 2])
        except Exception as error:  # pylint: disable=broad-except
            self.failures.append(f"an activation failed: {error}")
        self.swap_ms.append(1e3 * (time.monotonic() - start))
        self.swaps += 1

    def storm(self, rate: float, seconds: float) -> tuple[list[dict[str, Any]], list[list[float]]]:
        """The load with a swap each second, and with looks at replies."""
        ended = threading.Event()

        def swap() -> None:
            due = time.monotonic()
            while not ended.wait(max(0.0, due - time.monotonic())):
                self.swap()
                due += self.options.period_s

        def look() -> None:
            client = ReflectionClient(self.server.address, like=self.client)
            for number in range(10**9):
                if ended.wait(0.2):
                    break
                self.check(client, self.requests[number % len(self.requests)])
            client.close()

        threads = [threading.Thread(target=swap), threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        result = self.load(f"{rate}:{seconds}")
        ended.set()
        for thread in threads:
            thread.join()
        return result

    def check(self, client: ReflectionClient, request: Any) -> None:
        try:
            reply = client.call("RetrievalService.Search", store=request.store, top_k=request.top_k, queries=request.queries)
        except Exception as error:  # pylint: disable=broad-except
            self.failures.append(f"a search failed: {error}")
            return
        self.checked += 1
        label = self.generations[reply.generation]
        ids = [hit.id for hit in reply.results[0].hits]
        if len(ids) != request.top_k or not all(found.startswith(label) for found in ids):
            self.failures.append(f"{reply.generation} ({label}) answered with {ids}")

    def settled_mib(self) -> dict[str, float]:
        """Once nothing drains."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=10) as reply:
                if "\nloci_generations_draining 0\n" in reply.read().decode():
                    break
            time.sleep(0.1)
        time.sleep(0.5)
        return resident_mib(self.server.process.pid)

    def close(self) -> None:
        self.client.close()
        if self.server.stop() != 0:
            self.failures.append("the server did not end well")
        self.directory.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=63_436)
    parser.add_argument("--index", default="exact")
    parser.add_argument("--seconds", type=float, default=60, help="of swaps, and as many without")
    parser.add_argument("--rounds", type=int, default=3, help="in which they alternate")
    parser.add_argument("--period-s", type=float, default=1.0)
    parser.add_argument("--swaps", type=int, default=100, help="in all, for the memory")
    parser.add_argument("--load", type=float, default=0.5, help="of the saturation")
    parser.add_argument("--deadline-ms", type=int, default=5000)
    options = parser.parse_args()

    storm = Storm(options)
    storm.load("c8:3")
    saturation = storm.load("c16:5")[0][0]["goodput"]
    rate = max(1.0, options.load * saturation)
    print(f"{options.passages} passages, {options.index}: saturated at {saturation:.0f} searches/s, the load is {rate:.0f}/s", flush=True)
    for _ in range(4):
        storm.swap()
    first = storm.settled_mib()
    quiet_ms: list[float] = []
    storm_ms: list[float] = []
    for _ in range(options.rounds):
        seconds = options.seconds / options.rounds
        quiet = storm.load(f"{rate}:{seconds}")[1][0]
        before = len(storm.swap_ms)
        swapped = storm.storm(rate, seconds)[1][0]
        quiet_ms += quiet
        storm_ms += swapped
        print(f"  p99 {percentile(quiet, .99):.1f} ms without swaps, {percentile(swapped, .99):.1f} ms with {len(storm.swap_ms) - before}", flush=True)
    for name, values in (("without swaps", quiet_ms), ("with swaps", storm_ms)):
        print(f"{name}: {len(values)} searches, p50 {percentile(values, .5):.2f}, p90 {percentile(values, .9):.2f}, p99 {percentile(values, .99):.2f}, "
              f"p99.9 {percentile(values, .999):.2f} ms", flush=True)
    print(f"the swaps add {percentile(storm_ms, .99) - percentile(quiet_ms, .99):.2f} ms to p99; an activation takes {percentile(storm.swap_ms, .5):.0f} ms "
          f"(median), {max(storm.swap_ms):.0f} ms at most; {storm.checked} replies looked at, {len(storm.failures)} failures", flush=True)
    while storm.swaps < options.swaps:
        storm.swap()
    last = storm.settled_mib()
    print(f"after {storm.swaps} swaps: " + ", ".join(f"{name} {last[name]:.1f} MiB ({100 * (last[name] / first[name] - 1):+.1f} % of after 4)"
                                                     for name in first), flush=True)
    storm.close()
    if storm.failures:
        sys.exit("\n".join(storm.failures[:10]))


if __name__ == "__main__":
    main()
