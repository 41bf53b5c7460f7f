"""Overload: what the server does with five times the load that it can take.

First as many searches as it answers (closed loop), then five times that rate whatever it does (open loop), then half of it. Printed and
looked at: goodput per CPU second of the server against that at saturation, the latency of what was admitted, what the refused were told,
and how soon it answers everybody again. The server is $LOCI_SERVER_BINARY, the generator $LOCI_LOAD_GENERATOR.

As a test it is short and asserts what does not depend on the machine's speed; by hand, on a quiet machine:
  LOCI_SERVER_BINARY=bazel-bin/server/loci_server LOCI_LOAD_GENERATOR=bazel-bin/tests/load/load_generator \\
  PYTHONPATH=tests/integration python3 tests/load/overload_test.py --seconds 60 --strict
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

from loci_server import ReflectionClient, ServerProcess, main

WORDS = ("river stone forest market music bridge winter engine letter garden window captain silver evening history science village doctor "
         "language weather mountain island kitchen teacher painter soldier morning journey railway harbour festival library".split())
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def series(address: str, prefix: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(prefix)}


class Load:
    """A server with a store of synthetic passages, and runs of the generator against it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.directory = tempfile.TemporaryDirectory(prefix="loci_load_")
        self.server = ServerProcess()
        self.client = ReflectionClient(self.server.address)
        rng = random.Random(1)
        passages = [self.client.message("Passage", id=f"p{i}", text=" ".join(rng.choices(WORDS, k=12))) for i in range(options.passages)]
        self.client.ingest({"store": "default"}, [{"passages": passages}])
        self.queries = os.path.join(self.directory.name, "queries.txt")
        with open(self.queries, "w", encoding="utf-8") as file:
            for _ in range(500):
                file.write(" ".join(rng.choices(WORDS, k=options.words)) + "\n")

    def run(self, phases: str, bucket_ms: int = 100) -> tuple[list[dict], float]:
        """The generator's results of each phase, and the CPU seconds that the server used meanwhile."""
        before = cpu_seconds(self.server.process.pid)
        output = subprocess.run(
            [os.environ["LOCI_LOAD_GENERATOR"], "--server", self.server.address, "--queries", self.queries, "--phases", phases, "--connections",
             str(self.options.connections), "--deadline-ms", str(self.options.deadline_ms), "--bucket-ms", str(bucket_ms)],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        return json.loads(output)["phases"], cpu_seconds(self.server.process.pid) - before

    def close(self) -> int:
        self.client.close()
        status = self.server.stop()
        self.directory.cleanup()
        return status


def recovery_ms(timeline: list[list[int]], bucket_ms: int) -> int:
    """From the beginning of the phase to the end of the last bucket in which a request was not answered."""
    bad = [i for i, (_, others) in enumerate(timeline) if others > 0]
    return (bad[-1] + 1) * bucket_ms if bad else 0


class OverloadTest(unittest.TestCase):
    options: argparse.Namespace

    def setUp(self) -> None:
        self.load = Load(self.options)
        self.addCleanup(self.load.close)

    def test_overload_costs_little_is_told_and_passes(self) -> None:
        options, load = self.options, self.load
        load.run(f"c{options.concurrency}:{min(2.0, options.seconds / 4)}")  # Warms up.
        (saturated,), saturated_cpu = load.run(f"c{options.concurrency}:{options.saturation_seconds}")
        rate = saturated["goodput"] * options.factor
        self.assertGreater(saturated["goodput"], 0)

        results: list = []
        thread = threading.Thread(target=lambda: results.append(load.run(f"{rate}:{options.seconds}")))
        begin_wasted = series(load.server.metrics_address, "loci_wasted_work_total")
        thread.start()
        health, reads = 0, 0
        while thread.is_alive():  # Whoever looks after the server gets through.
            self.assertEqual(load.client.health(), 1)
            health += 1
            load.client.call("AdminService.ListStores", timeout=10)
            reads += 1
            time.sleep(0.25)
        thread.join()
        (over,), over_cpu = results[0]
        end_wasted = series(load.server.metrics_address, "loci_wasted_work_total")
        # The same load goes on with what it can take, without a pause between.
        (_, after), _ = load.run(f"{rate}:2,{saturated['goodput'] / 2}:3")

        per_cpu_saturated = saturated["codes"]["OK"] / saturated_cpu
        per_cpu_over = over["codes"].get("OK", 0) / over_cpu
        wasted = sum(end_wasted.values()) - sum(begin_wasted.values())
        recovered_ms = recovery_ms(after["timeline"], 100)
        print(json.dumps({
            "saturation": {"goodput": round(saturated["goodput"], 1), "cpu_s": round(saturated_cpu, 2), "per_cpu_s": round(per_cpu_saturated, 1),
                           "latency_ms": saturated["latency_ms"]},
            "overload": {"rate": round(rate, 1), "seconds": options.seconds, "sent": over["sent"], "not_sent": over["not_sent"], "codes": over["codes"],
                         "goodput": round(over["goodput"], 1), "cpu_s": round(over_cpu, 2), "per_cpu_s": round(per_cpu_over, 1),
                         "latency_ms": over["latency_ms"], "refused_latency_ms": over["refused_latency_ms"], "pushback_ms": over["pushback_ms"],
                         "late_send_ms": over["late_send_ms"], "wasted_requests": wasted, "health_checks": health, "admin_reads": reads},
            "goodput_per_cpu_ratio": round(per_cpu_over / per_cpu_saturated, 3),
            "after": {"codes": after["codes"], "recovered_ms": recovered_ms}}, indent=1), flush=True)

        self.assertGreater(over["codes"].get("OK", 0), 0, "it goes on answering")
        self.assertGreater(over["codes"].get("RESOURCE_EXHAUSTED", 0), 0, "it was more than it can take")
        self.assertEqual(over["pushback_ms"]["missing"], 0, "who is refused is told when to come again")
        self.assertEqual(set(over["codes"]) - {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}, set())
        self.assertGreater(reads, 0)
        if options.strict:
            self.assertLessEqual(over["latency_ms"]["max"], options.deadline_ms + 100, "what is answered is answered in time")
            self.assertGreaterEqual(per_cpu_over / per_cpu_saturated, 0.9)
            self.assertLessEqual(over["codes"].get("DEADLINE_EXCEEDED", 0), 0.01 * over["codes"]["OK"], "the refused are refused at once")
            self.assertLessEqual(recovered_ms, 1000)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of overload (default %(default)s)")
    parser.add_argument("--saturation-seconds", type=float, default=2.0)
    parser.add_argument("--factor", type=float, default=5.0, help="times the goodput at saturation")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight at saturation")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--deadline-ms", type=int, default=1000)
    parser.add_argument("--passages", type=int, default=300)
    parser.add_argument("--words", type=int, default=10, help="of a query")
    parser.add_argument("--strict", action="store_true", help="asserts what a quiet machine must show")
    OverloadTest.options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    main()
