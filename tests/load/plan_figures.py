"""Plans activations of stores of several shapes, activates, and prints what was predicted against what was measured.

Each shape is built twice, then the server is started again. Memory: of the plan's owners and of all of them against the server's gauges, of the second
activation, and against what RssAnon of the process grows by in the first one (below 8 MiB that is noise). At most: by the gauges after every passage was
read. Disk: the files of the generation's folder. Time: of activations of the two in turns, by the client's clock: medians of what was predicted of each and
of what each took, as a single one is at the mercy of what else the machine does. Exits with 1 where all of a plan's memory, or disk, is more than 15 % off.

  LOCI_SERVER_BINARY=bazel-bin/server/loci_server PYTHONPATH=tests/integration python3 tests/load/plan_figures.py
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from typing import Any

from loci_server import ReflectionClient, ServerProcess
from synthetic_corpus import vector_batches

SHAPES = [  # Name, passages, index, metadata, upserts after the build.
    ("exact", 4_000, "exact", True, 0),
    ("exact, without metadata", 20_000, "exact", False, 0),
    ("exact", 60_000, "exact", True, 0),
    ("exact, written to", 20_000, "exact", True, 2_000),
    ("exact with codes", 60_000, "exact:int8", True, 0),
    ("inverted lists", 60_000, "IVF256,Flat", True, 0),
    ("compressed", 60_000, "IVF256,PQ48", False, 0),
    ("graph", 20_000, "HNSW32", True, 1_000),
]
NOISE_BYTES = 8 * 2**20  # By so much RssAnon moves by itself.


def anonymous_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", file.read())[1])


def gauges(address: str, store: str) -> dict[tuple[str, bool], float]:
    """loci_memory_bytes of the store, by owner and whether it is mapped."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("loci_memory_bytes{") and f'store="{store}"' in line:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            found[labels["owner"], labels["kind"] == "mapped"] = float(line.rsplit(" ", 1)[1])
    return found


def wait_until_drained(address: str) -> None:
    for _ in range(600):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            if "\nloci_generations_draining 0\n" in reply.read().decode():
                return
        time.sleep(0.05)
    sys.exit("what served before does not end")


def size_on_disk(path: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)


def activate(client: ReflectionClient, store: str, generation: str) -> tuple[Any, float]:
    """What was planned, and the seconds that it took."""
    replay = client.value("WritesSince", "WRITES_SINCE_REPLAY")
    plan = client.call("AdminService.PlanActivation", store=store, generation=generation, writes_since=replay)
    if not plan.can_activate:
        sys.exit(f"blocked: {list(plan.blockers)}")
    start = time.monotonic()
    client.call("AdminService.ActivateGeneration", store=store, generation=generation, writes_since=replay)
    return plan, time.monotonic() - start


class Figures:
    def __init__(self) -> None:
        self.worst = 1.0
        self.times = []

    def line(self, what: str, predicted: float, measured: float, unit: float, counted: bool = True) -> None:
        ratio = predicted / measured if measured > 0 else 1.0
        if counted:
            self.worst = max(self.worst, ratio, 1 / ratio if ratio > 0 else 1e9)
        print(f"    {what:34} predicted {predicted / unit:10.3f}  measured {measured / unit:10.3f}  ratio {ratio:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the passages of each shape")
    parser.add_argument("--turns", type=int, default=9, help="activations that are timed")
    options = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="loci_plan_") as data:
        server = ServerProcess(data)
        client = ReflectionClient(server.address)
        fingerprint = client.call("AdminService.GetServerInfo").encoders[0].fingerprint
        for number, (name, passages, index, metadata, upserts) in enumerate(SHAPES):
            passages = int(passages * options.scale)
            store = f"plan{number}"
            header = {"store": store, "encoder_fingerprint": fingerprint, "index": {"factory": index}}
            generations = []
            for _ in range(2):
                reply = client.ingest({**header, "no_activate": True}, vector_batches(client, passages, metadata=metadata), timeout=3600)
                generations.append(reply.generation)
            print(f"{name}: {passages} passages, {index}{', metadata' if metadata else ''}{f', {upserts} written since' if upserts else ''}", flush=True)
            # What the builds have left in the allocator would be taken for the activation, and be no growth.
            client.close()
            server.stop()
            server = ServerProcess(data)
            client = ReflectionClient(server.address)
            anonymous = predicted_anonymous = 0
            for generation in generations:
                if generation == generations[1] and upserts:
                    upsert = {"store": store, "encoder_fingerprint": fingerprint, "mode": client.value("IngestMode", "INGEST_MODE_UPSERT")}
                    client.ingest(upsert, vector_batches(client, upserts // 2, metadata=metadata), timeout=600)  # Half of them replace others.
                    client.ingest(upsert, vector_batches(client, upserts // 2, "n", metadata=metadata), timeout=600)
                time.sleep(1)
                before_anonymous = anonymous_bytes(server.process.pid)
                plan, _ = activate(client, store, generation)
                if generation == generations[0]:  # Nothing is given back beside it.
                    anonymous, predicted_anonymous = anonymous_bytes(server.process.pid) - before_anonymous, plan.resident_bytes
            wait_until_drained(server.metrics_address)
            after = gauges(server.metrics_address, store)
            for figure in plan.memory:
                measured = after[figure.owner, figure.mapped]
                if figure.bytes or measured:
                    figures.line(f"{figure.owner}{' (mapped)' if figure.mapped else ''}, MiB", figure.bytes, measured, 2**20, counted=False)
            figures.line("resident, by the gauges, MiB", plan.resident_bytes, sum(value for (_, mapped), value in after.items() if not mapped), 2**20)
            figures.line("resident, by RssAnon, MiB", predicted_anonymous, anonymous, 2**20, counted=predicted_anonymous > NOISE_BYTES)
            figures.line("disk, MiB", plan.disk_bytes, size_on_disk(os.path.join(data, "stores", store, generation)), 2**20)
            ids = [f"p{i:08d}" for i in range(passages)]
            for first in range(0, passages, 1_000):
                client.call("AdminService.GetPassages", store=store, generation=generation, ids=ids[first:first + 1_000])
            filled = gauges(server.metrics_address, store)
            figures.line("at most, MiB", plan.resident_most_bytes, sum(value for (_, mapped), value in filled.items() if not mapped), 2**20)
            turns = [activate(client, store, generations[turn % 2]) for turn in range(options.turns)]
            times = [statistics.median(planned.estimated_load_ms for planned, _ in turns), statistics.median(1e3 * seconds for _, seconds in turns)]
            figures.times.append(times[0] / times[1])
            figures.line("time, ms", *times, 1, counted=False)
            client.call("AdminService.DeleteStore", store=store, confirm_name=store)
        client.close()
        server.stop()
    print("time predicted, of that taken: " + " ".join(f"{ratio:.2f}" for ratio in figures.times))
    print(f"the farthest from 1, of memory and disk: {figures.worst:.3f}")
    if figures.worst > 1.15:
        sys.exit("more than 15 %")


if __name__ == "__main__":
    main()
